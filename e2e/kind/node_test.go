package kind

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// workers are the nodes that take pods, with istiod's own first: what is done to the
// others leaves the control plane alone.
func workers(ctx context.Context) []string {
	GinkgoHelper()
	first := kubectl(ctx, "get", "pods", "-n", "istio-system", "-l", "app=istiod", "--field-selector=status.phase=Running",
		"-o", "jsonpath={.items[0].spec.nodeName}")
	all := []string{first}
	for _, n := range strings.Fields(kubectl(ctx, "get", "nodes", "-l", "!node-role.kubernetes.io/control-plane", "-o", "jsonpath={.items[*].metadata.name}")) {
		if n != first {
			all = append(all, n)
		}
	}
	return all
}

// pin lets a Deployment's pods run on one node alone.
func pin(ctx context.Context, namespace, deployment, node string) {
	GinkgoHelper()
	kubectl(ctx, "patch", "deployment", "-n", namespace, deployment, "--type=merge", "-p",
		fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":%q}}}}}`, node))
	rolledOut(ctx, namespace, deployment)
}

// budget is what an operator declares for whom a drain must not interrupt.
const budget = `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: %[1]s}
spec:
  minAvailable: 1
  selector: {matchLabels: {%[2]s}}
---
`

var _ = Describe("a node", Label("node"), Ordered, ContinueOnFailure, func() {
	const namespace = "node"
	var stays, goes string

	BeforeAll(func(ctx SpecContext) {
		all := workers(ctx)
		if len(all) < 2 {
			Skip("NOT RUN: the cluster has one node that takes pods")
		}
		stays, goes = all[0], all[1]
		fortioWithWaypoint(ctx, namespace, "")
		pin(ctx, namespace, "netutils", stays)
	}, NodeTimeout(8*time.Minute))

	It("no request is lost while it is drained", func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) { kubectl(ctx, "uncordon", stays, goes) }, NodeTimeout(time.Minute))
		// Two pods of each, on the node that is drained: one has to be elsewhere before the
		// other goes.
		kubectl(ctx, "cordon", stays)
		budgets := ""
		for d, labels := range map[string]string{
			"fortio-v1": `"app":"fortio","version":"v1"`, "fortio-v2": `"app":"fortio","version":"v2"`,
			"waypoint": `"gateway.networking.k8s.io/gateway-name":"waypoint"`,
		} {
			budgets += fmt.Sprintf(budget, d, labels)
			kubectl(ctx, "scale", "-n", namespace, "deployment/"+d, "--replicas=2")
			kubectl(ctx, "rollout", "restart", "-n", namespace, "deployment/"+d)
		}
		apply(ctx, namespace, budgets)
		rolledOut(ctx, namespace, "fortio-v1", "fortio-v2", "waypoint")
		kubectl(ctx, "uncordon", stays)
		passesWaypoint(ctx, namespace)

		evicted := ""
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			evicted = kubectl(ctx, "drain", goes, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=240s")
			rolledOut(ctx, namespace, "fortio-v1", "fortio-v2", "waypoint")
		}))
		Expect(strings.Count(evicted, " evicted")).To(BeNumerically(">=", 6), evicted)
		Expect(kubectl(ctx, "get", "pods", "-n", namespace, "-o", "name", "--field-selector=spec.nodeName="+goes)).To(BeEmpty())
	}, SpecTimeout(9*time.Minute))

	It("that starts again lets no pod outside the mesh", func(ctx SpecContext) {
		if out, err := exec.CommandContext(ctx, "docker", "inspect", goes).CombinedOutput(); err != nil {
			Skip(fmt.Sprintf("NOT RUN: node %s is no container of an engine that can be asked (DOCKER_HOST %q): %s",
				goes, os.Getenv("DOCKER_HOST"), strings.TrimSpace(string(out))))
		}
		kubectl(ctx, "uncordon", goes)
		allToSecond(ctx, namespace)
		startAsking(ctx, namespace, "restarted", goes)
		inside(ctx, namespace, "restarted")

		out, err := exec.CommandContext(ctx, "docker", "restart", goes).CombinedOutput()
		Expect(err).NotTo(HaveOccurred(), string(out))
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "pod", "-n", namespace, "restarted", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		}, 2*patience).ShouldNot(Equal("0"), "restarts of the pod's container")
		inside(ctx, namespace, "restarted")
		kubectl(ctx, "wait", "--for=condition=Ready", "node/"+goes, "--timeout=180s")
		agentsReady(ctx)
		// One that starts now, too.
		startAsking(ctx, namespace, "after", goes)
		inside(ctx, namespace, "after")
	}, SpecTimeout(10*time.Minute))
})

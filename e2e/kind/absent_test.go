package kind

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// Nowhere is a node selector that no node has: the agents end, and are not removed.
const (
	nowhere = `{"spec":{"template":{"spec":{"nodeSelector":{"duomesh.io/nowhere":"true"}}}}}`
	back    = `{"spec":{"template":{"spec":{"nodeSelector":{"duomesh.io/nowhere":null}}}}}`
	system  = "duomesh-system"
)

// asked is what a pod does first of all, before anybody could have enrolled it but
// the CNI plugin: twenty requests to a service of two versions, of which its waypoint
// sends all to the second. Without the mesh half of them come to the first.
const asked = `for i in $(seq 20); do curl -s -m 60 -o /dev/null -w 'server: %header{server} %{http_code} %{errormsg}\n' http://fortio/; done; sleep infinity`

// allToSecond lets the sample's waypoint send everything to the second version.
func allToSecond(ctx context.Context, namespace string) {
	GinkgoHelper()
	kubectl(ctx, "patch", "virtualservice", "-n", namespace, "fortio", "--type=merge", "-p",
		`{"spec":{"http":[{"route":[{"destination":{"host":"fortio","subset":"v2"}}]}]}}`)
	Eventually(ctx, func() string { return counted(ctx, namespace, curlHeader("a: b", 50)) }, patience).Should(Equal("server: 2 50"))
}

// startAsking starts a pod that asks, on a node unless it is "", with labels.
func startAsking(ctx context.Context, namespace, name, node string, labels ...string) {
	GinkgoHelper()
	overrides := `{"spec":{"terminationGracePeriodSeconds":0}}`
	if node != "" {
		overrides = fmt.Sprintf(`{"spec":{"terminationGracePeriodSeconds":0,"nodeName":%q}}`, node)
	}
	kubectl(ctx, "run", "-n", namespace, name, "--image=duomesh/netutils:"+tag(), "--image-pull-policy=IfNotPresent",
		"--labels="+strings.Join(append(labels, "app="+name), ","), "--overrides="+overrides, "--command", "--", "sh", "-c", asked)
}

// answered returns what a pod that asks was told, a line for each request, when it has
// asked.
func answered(ctx context.Context, namespace, name string) []string {
	GinkgoHelper()
	var said []string
	Eventually(ctx, func() ([]string, error) {
		out, err := tryKubectl(ctx, "logs", "-n", namespace, name)
		said = slices.Collect(strings.Lines(out))
		return said, err
	}, 2*patience).Should(HaveLen(20), "answers that pod %s had", name)
	return said
}

// inside holds that a pod was in the mesh from its first request on.
func inside(ctx context.Context, namespace, name string) {
	GinkgoHelper()
	Expect(answered(ctx, namespace, name)).To(HaveEach(HavePrefix("server: 2 200")), "answers to pod %s", name)
	Eventually(ctx, func() string {
		return kubectl(ctx, "get", "pod", "-n", namespace, name, "-o", `jsonpath={.metadata.annotations.kmesh\.net/redirection}`)
	}, patience).Should(Equal("enabled"))
}

var _ = Describe("a pod that starts", Label("start"), Ordered, ContinueOnFailure, func() {
	const namespace = "absent"
	var judge *judge
	// kept holds what the pod was told, and what the kernel saw: each of its requests is
	// a connection to the waypoint, and none goes around it.
	kept := func(ctx context.Context, name string) {
		GinkgoHelper()
		inside(ctx, namespace, name)
		through, around := judge.opened(ctx, addressOf(ctx, namespace, name))
		Expect([]int{through, around}).To(Equal([]int{20, 0}), "connections of pod %s to the waypoint, and around it", name)
	}

	BeforeAll(func(ctx SpecContext) {
		fortioWithWaypoint(ctx, namespace, "")
		allToSecond(ctx, namespace)
		judge = observe(ctx, namespace)
	}, NodeTimeout(8*time.Minute))

	It("is in the mesh before its first process", func(ctx SpecContext) {
		startAsking(ctx, namespace, "first", "")
		kept(ctx, "first")
	}, SpecTimeout(5*time.Minute))

	It("is seen where it is outside the mesh: the control", func(ctx SpecContext) {
		startAsking(ctx, namespace, "outside", "", "istio.io/dataplane-mode=none")
		Expect(answered(ctx, namespace, "outside")).To(ContainElement(HavePrefix("server: 1 200")))
		through, around := judge.opened(ctx, addressOf(ctx, namespace, "outside"))
		Expect([]int{through, around}).To(Equal([]int{0, 20}), "connections to the waypoint, and around it")
	}, SpecTimeout(5*time.Minute))

	It("is in the mesh when agents are replaced, and when they are killed, at that moment", func(ctx SpecContext) {
		const each = 6
		DeferCleanup(func(ctx SpecContext) { agentsReady(ctx) }, NodeTimeout(4*time.Minute))
		begin := func(how string) {
			for i := range each {
				startAsking(ctx, namespace, fmt.Sprintf("%s-%d", how, i), "")
			}
		}
		kubectl(ctx, "rollout", "restart", "-n", system, "daemonset/duomesh-agent")
		begin("replaced")
		agentsReady(ctx)
		kubectl(ctx, "delete", "pods", "-n", system, "-l", "app.kubernetes.io/name=duomesh-agent", "--grace-period=0", "--force", "--wait=false")
		begin("killed")
		for _, how := range []string{"replaced", "killed"} {
			for i := range each {
				kept(ctx, fmt.Sprintf("%s-%d", how, i))
			}
		}
		say("pods that started while agents were replaced or killed: %d, each of their connections to the waypoint", 2*each)
	}, SpecTimeout(9*time.Minute))

	It("leaves by a label while it runs, and comes back, and loses nothing", Label(smoke), func(ctx SpecContext) {
		client := kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app=netutils", "-o", "jsonpath={.items[0].metadata.name}")
		labelled := func(ctx context.Context, label, confirmed string) {
			kubectl(ctx, "label", "pod", "-n", namespace, client, "--overwrite", label)
			Eventually(ctx, func() string {
				return kubectl(ctx, "get", "pod", "-n", namespace, client, "-o", `jsonpath={.metadata.annotations.kmesh\.net/redirection}`)
			}, patience).Should(Equal(confirmed))
		}
		DeferCleanup(func(ctx SpecContext) { labelled(ctx, "istio.io/dataplane-mode=Kmesh", "enabled") }, NodeTimeout(2*time.Minute))
		allAnswered(load(ctx, namespace, func(ctx context.Context) {
			labelled(ctx, "istio.io/dataplane-mode=none", "")
			// Outside, kube-proxy serves it, each connection by one version or the other.
			Expect(counted(ctx, namespace, curlConnections(50))).To(And(ContainSubstring("server: 1"), ContainSubstring("server: 2")))
			labelled(ctx, "istio.io/dataplane-mode=Kmesh", "enabled")
			Expect(counted(ctx, namespace, curlHeader("a: b", 50))).To(Equal("server: 2 50"))
		}))
	}, SpecTimeout(5*time.Minute))

	It("waits while its node has no agent, and is never outside the mesh", func(ctx SpecContext) {
		kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", nowhere)
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", back)
			agentsReady(ctx)
		}, NodeTimeout(4*time.Minute))
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "pods", "-n", system, "-o", "name")
		}, patience).Should(BeEmpty())
		startAsking(ctx, namespace, "waits", "")
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "events", "-n", namespace, "--field-selector=involvedObject.name=waits", "-o", "jsonpath={.items[*].message}")
		}, patience).Should(ContainSubstring("no agent answers"))
		Expect(kubectl(ctx, "get", "pod", "-n", namespace, "waits", "-o", "jsonpath={.status.phase}")).To(Equal("Pending"))
		// What was enrolled goes on meanwhile, by what is pinned.
		Expect(counted(ctx, namespace, curlHeader("a: b", 50))).To(Equal("server: 2 50"))

		kubectl(ctx, "patch", "daemonset", "-n", system, "duomesh-agent", "--type=merge", "-p", back)
		kept(ctx, "waits")
	}, SpecTimeout(8*time.Minute))
})

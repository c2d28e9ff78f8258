package kind

import (
	"context"
	"os"
	"os/exec"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// program runs one of the repository's own, and returns what it says.
func program(ctx context.Context, env []string, path string, args ...string) string {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = repository, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s: %s", path, out)
	return string(out)
}

// As a hosted control plane is: of a revision, behind a headless Service with port
// 15012 alone, knowing the cluster by a name of its own.
var _ = Describe("an istiod of a revision", Label("revision"), Ordered, func() {
	const (
		namespace = "revision"
		address   = "istiod-1-22-6.istio-system.svc:15012"
	)

	BeforeAll(func(ctx SpecContext) {
		if os.Getenv("DUOMESH_E2E_OWN") == "" {
			Skip("NOT RUN: it installs another istiod and duomesh anew, which is not done to a cluster that was there")
		}
		program(ctx, []string{"CLUSTER_ID=cluster-id"}, "scripts/kind-istiod.sh", "1-22-6")
		Expect(kubectl(ctx, "get", "service", "-n", "istio-system", "istiod-1-22-6", "-o",
			"jsonpath={.spec.clusterIP} {.spec.ports[*].port}")).To(Equal("None 15012"))
		program(ctx, nil, "bin/duomesh", "install", "--set", "xdsAddress="+address, "--set", "clusterId=cluster-id")
		DeferCleanup(func(ctx SpecContext) {
			program(ctx, nil, "bin/duomesh", "install")
			kubectl(ctx, "delete", "deployments,services", "-n", "istio-system", "-l", "app=istiod,istio.io/rev=1-22-6")
			kubectl(ctx, "delete", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "-l", "istio.io/rev=1-22-6")
		}, NodeTimeout(6*time.Minute))
	}, NodeTimeout(10*time.Minute))

	It("serves the agents by its name", func(ctx SpecContext) {
		Expect(program(ctx, nil, "bin/duomesh", "status", "--kubeconfig", os.Getenv("KUBECONFIG"))).
			To(And(ContainSubstring(address), ContainSubstring("the kernel is as applied")))
	}, SpecTimeout(3*time.Minute))

	It("answers one request in ten by v2", func(ctx SpecContext) {
		fortioWithWaypoint(ctx, namespace, "1-22-6")
		shares(ctx, namespace, .1, curlRequests)
	}, SpecTimeout(10*time.Minute))
})

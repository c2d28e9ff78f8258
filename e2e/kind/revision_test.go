package kind

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
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
var _ = Describe("an istiod of a revision", Ordered, func() {
	const (
		namespace = "revision"
		address   = "istiod-1-22-6.istio-system.svc:15012"
	)

	BeforeAll(func(ctx SpecContext) {
		program(ctx, []string{"CLUSTER_ID=cluster-id"}, "scripts/kind-istiod.sh", "1-22-6")
		Expect(kubectl(ctx, "get", "service", "-n", "istio-system", "istiod-1-22-6", "-o",
			"jsonpath={.spec.clusterIP} {.spec.ports[*].port}")).To(Equal("None 15012"))
		program(ctx, nil, "bin/duomesh", "install", "--set", "xdsAddress="+address, "--set", "clusterId=cluster-id")
		DeferCleanup(func(ctx SpecContext) {
			program(ctx, nil, "bin/duomesh", "install")
		}, NodeTimeout(4*time.Minute))
	}, NodeTimeout(8*time.Minute))

	It("serves the agents by its name", func(ctx SpecContext) {
		Expect(program(ctx, nil, "bin/duomesh", "status", "--kubeconfig", os.Getenv("KUBECONFIG"))).
			To(And(ContainSubstring(address), ContainSubstring("the kernel is as applied")))
	}, SpecTimeout(time.Minute))

	It("answers one request in ten by v2", func(ctx SpecContext) {
		kubectl(ctx, "create", "namespace", namespace)
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "delete", "namespace", namespace, "--wait=true", "--timeout=90s")
		}, NodeTimeout(2*time.Minute))
		kubectl(ctx, "label", "namespace", namespace, "istio.io/dataplane-mode=Kmesh")
		kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-route.yaml", "-f", "samples/fortio/netutils.yaml")
		gateway := filepath.Join(GinkgoT().TempDir(), "waypoint.yaml")
		labelled := kubectl(ctx, "label", "--local", "-f", "samples/fortio/waypoint.yaml", "istio.io/rev=1-22-6", "-o", "yaml")
		Expect(os.WriteFile(gateway, []byte(labelled), 0o600)).To(Succeed())
		kubectl(ctx, "apply", "-n", namespace, "-f", gateway)
		kubectl(ctx, "label", "service", "-n", namespace, "fortio", "istio.io/use-waypoint=waypoint")
		kubectl(ctx, "wait", "-n", namespace, "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s")
		for _, d := range []string{"fortio-v1", "fortio-v2", "netutils", "waypoint"} {
			kubectl(ctx, "rollout", "status", "-n", namespace, "deployment/"+d, "--timeout=120s")
		}
		Eventually(ctx, func() uint64 {
			counted(ctx, namespace, curlHeader("a: b", 10))
			return through(ctx, namespace)
		}, time.Minute).Should(BeNumerically(">", 0))
		shares(ctx, namespace, .1, curlRequests)
	}, SpecTimeout(8*time.Minute))
})

package kind

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
)

// fortioWithWaypoint is the sample in a namespace of its own, enrolled, by way of a
// waypoint. It is taken away at the end.
func fortioWithWaypoint(ctx context.Context, namespace string) {
	GinkgoHelper()
	kubectl(ctx, "create", "namespace", namespace)
	DeferCleanup(func(ctx SpecContext) {
		kubectl(ctx, "delete", "namespace", namespace, "--wait=true", "--timeout=90s")
	}, NodeTimeout(2*time.Minute))
	kubectl(ctx, "label", "namespace", namespace, "istio.io/dataplane-mode=Kmesh")
	kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-route.yaml", "-f", "samples/fortio/netutils.yaml",
		"-f", "samples/fortio/waypoint.yaml")
	kubectl(ctx, "label", "service", "-n", namespace, "fortio", "istio.io/use-waypoint=waypoint")
	kubectl(ctx, "wait", "-n", namespace, "--for=condition=Programmed", "gateway/waypoint", "--timeout=90s")
	for _, d := range []string{"fortio-v1", "fortio-v2", "netutils", "waypoint"} {
		kubectl(ctx, "rollout", "status", "-n", namespace, "deployment/"+d, "--timeout=120s")
	}
	Eventually(ctx, func() uint64 {
		counted(ctx, namespace, curlHeader("a: b", 10))
		return through(ctx, namespace)
	}, time.Minute).Should(BeNumerically(">", 0))
}

var _ = Describe("under load", Ordered, func() {
	const namespace = "rollout"

	BeforeAll(func(ctx SpecContext) { fortioWithWaypoint(ctx, namespace) }, NodeTimeout(6*time.Minute))

	// load makes requests at a rate as long as change takes, on connections that are
	// kept and on new ones, and returns what came of them, counted.
	load := func(ctx context.Context, change func(context.Context)) []string {
		GinkgoHelper()
		const perSecond = 250 // of each of the two
		curl := `curl -s -m 10 -o /dev/null -w '%%{http_code}\n' --rate %d/s %s 'http://fortio/[1-100000]' & p=$!; ` +
			`while [ ! -e /tmp/end ]; do sleep 0.2; done; kill $p; wait $p`
		kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "rm", "-f", "/tmp/end")
		lines := make([]string, 2)
		g, ctx := errgroup.WithContext(ctx)
		for i, more := range []string{"", "-H 'Connection: close'"} {
			g.Go(func() error {
				command := "{ " + fmt.Sprintf(curl, perSecond, more) + "; } | sort | uniq -c | awk '{print $2, $1}'"
				out, err := tryKubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "sh", "-c", command)
				lines[i] = strings.ReplaceAll(strings.TrimSpace(out), "\n", ", ")
				return err
			})
		}
		change(ctx)
		kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "touch", "/tmp/end")
		Expect(g.Wait()).To(Succeed())
		return lines
	}
	allAnswered := func(lines []string) {
		GinkgoHelper()
		for _, l := range lines {
			Expect(l).To(MatchRegexp(`^200 \d{3,}$`), "answers by status: %s", l)
			say("under load: answers by status %s", l)
		}
	}

	It("no request is lost while both versions are rolled out", func(ctx SpecContext) {
		allAnswered(load(ctx, func(ctx context.Context) {
			kubectl(ctx, "rollout", "restart", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2")
			for _, d := range []string{"fortio-v1", "fortio-v2"} {
				kubectl(ctx, "rollout", "status", "-n", namespace, "deployment/"+d, "--timeout=120s")
			}
		}))
	}, SpecTimeout(5*time.Minute))

	It("no request is lost while the agents are rolled out", func(ctx SpecContext) {
		allAnswered(load(ctx, func(ctx context.Context) {
			kubectl(ctx, "rollout", "restart", "-n", system, "daemonset/duomesh-agent")
			kubectl(ctx, "rollout", "status", "-n", system, "daemonset/duomesh-agent", "--timeout=180s")
		}))
	}, SpecTimeout(5*time.Minute))

	It("connections that fail are seen: the load's own control", func(ctx SpecContext) {
		lines := load(ctx, func(ctx context.Context) {
			kubectl(ctx, "scale", "-n", namespace, "deployment/fortio-v1", "deployment/fortio-v2", "--replicas=0")
			Eventually(ctx, func() string {
				return kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app=fortio", "-o", "name")
			}, time.Minute).Should(BeEmpty())
			Eventually(ctx, func() string { return counted(ctx, namespace, curlHeader("a: b", 5)) }, time.Minute).ShouldNot(ContainSubstring("server: 1"))
		})
		Expect(strings.Join(lines, " ")).To(MatchRegexp(`(503|000) \d+`))
	}, SpecTimeout(5*time.Minute))
})

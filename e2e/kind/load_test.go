package kind

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
)

// enrolled makes a namespace whose pods are in the mesh. It is taken away at the end.
func enrolled(ctx context.Context, namespace string) {
	GinkgoHelper()
	kubectl(ctx, "create", "namespace", namespace)
	DeferCleanup(func(ctx SpecContext) {
		kubectl(ctx, "delete", "namespace", namespace, "--wait=true", "--timeout=150s")
	}, NodeTimeout(3*time.Minute))
	kubectl(ctx, "label", "namespace", namespace, "istio.io/dataplane-mode=Kmesh")
}

// fortioWithWaypoint is the sample in a namespace of its own, enrolled, by way of a
// waypoint, of an istiod of the revision unless it is "".
func fortioWithWaypoint(ctx context.Context, namespace, revision string) {
	GinkgoHelper()
	enrolled(ctx, namespace)
	gateway := "samples/fortio/waypoint.yaml"
	if revision != "" {
		labelled := kubectl(ctx, "label", "--local", "-f", gateway, "istio.io/rev="+revision, "-o", "yaml")
		gateway = filepath.Join(GinkgoT().TempDir(), "waypoint.yaml")
		Expect(os.WriteFile(gateway, []byte(labelled), 0o600)).To(Succeed())
	}
	kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-route.yaml", "-f", "samples/fortio/netutils.yaml", "-f", gateway)
	kubectl(ctx, "label", "service", "-n", namespace, "fortio", "istio.io/use-waypoint=waypoint")
	kubectl(ctx, "wait", "-n", namespace, "--for=condition=Programmed", "gateway/waypoint", "--timeout=150s")
	rolledOut(ctx, namespace, "fortio-v1", "fortio-v2", "netutils", "waypoint")
	passesWaypoint(ctx, namespace)
}

// rolledOut returns when Deployments are as declared.
func rolledOut(ctx context.Context, namespace string, deployments ...string) {
	GinkgoHelper()
	for _, d := range deployments {
		kubectl(ctx, "rollout", "status", "-n", namespace, "deployment/"+d, "--timeout=150s")
	}
}

// passesWaypoint returns when requests of the client are sent on by the waypoint.
func passesWaypoint(ctx context.Context, namespace string) {
	GinkgoHelper()
	Eventually(ctx, func() uint64 {
		counted(ctx, namespace, curlHeader("a: b", 10))
		return through(ctx, namespace)
	}, patience).Should(BeNumerically(">", 0), "requests that the waypoint has sent on")
}

// agentsReady returns when an agent is ready on every node.
func agentsReady(ctx context.Context) {
	GinkgoHelper()
	kubectl(ctx, "rollout", "status", "-n", system, "daemonset/duomesh-agent", "--timeout=180s")
}

// load makes requests at a rate as long as change takes, on connections that are kept
// and on new ones, and returns what came of them, counted by status.
func load(ctx context.Context, namespace string, change func(context.Context)) []string {
	GinkgoHelper()
	const perSecond = 250 // of each of the two
	// What curl writes to its standard output waits in a buffer, and is lost when it ends.
	curl := `curl -s -m 10 -o /dev/null -w '%%{stderr}%%{http_code}\n' --rate %d/s %s 'http://fortio/[1-1000000]' 2>&1 & p=$!; ` +
		`while [ ! -e /tmp/end ]; do sleep 0.2; done; kill $p; wait $p`
	kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "rm", "-f", "/tmp/end")
	lines := make([]string, 2)
	g, running := errgroup.WithContext(ctx)
	for i, more := range []string{"", "-H 'Connection: close'"} {
		g.Go(func() error {
			command := "{ " + fmt.Sprintf(curl, perSecond, more) + "; } | sort | uniq -c | awk '{print $2, $1}'"
			out, err := tryKubectl(running, "exec", "-n", namespace, "deploy/netutils", "--", "sh", "-c", command)
			lines[i] = strings.ReplaceAll(strings.TrimSpace(out), "\n", ", ")
			return err
		})
	}
	change(ctx)
	kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "touch", "/tmp/end")
	Expect(g.Wait()).To(Succeed())
	return lines
}

// allAnswered holds that no request of a load was lost.
func allAnswered(lines []string) {
	GinkgoHelper()
	for _, l := range lines {
		Expect(l).To(MatchRegexp(`^200 \d{3,}$`), "answers by status: %s", l)
		say("under load: answers by status %s", l)
	}
}

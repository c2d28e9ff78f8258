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

// perSecond is the rate of each half of a load. curlRate is what curl is asked for it: it
// waits whole milliseconds, wakes up late, and makes up for nothing, so that of 250 it made
// 200, and of 330 it makes 250 to 280. What was made is printed beside what was wanted.
const (
	perSecond = 250
	curlRate  = 330
)

// loading is the shell command of half a load: requests at a rate until a file is there, then what came of them, counted: a status, or lost-and-retried for a request that
// was lost with the connection that it was sent on, and which curl made again.
// What curl writes to its standard output waits in a buffer, and is lost when it ends.
func loading(url, more, end string) string {
	curl := fmt.Sprintf(`curl -sv -m 10 -o /dev/null -w '%%{stderr}%%{http_code}\n' --rate %d/s %s '%s[1-1000000]' 2>&1`, curlRate, more, url)
	return "{ " + curl + ` & p=$!; while [ ! -e ` + end + ` ]; do sleep 0.2; done; kill $p; wait $p; } | ` +
		`sed -n -e 's/^.*Connection died, retrying.*/` + retried + `/p' -e '/^[0-9][0-9][0-9]$/p' | sort | uniq -c | awk '{print $2, $1}'`
}

// retried stands for a request that curl had to send a second time.
const retried = "lost-and-retried"

// answers is what came of half a load.
type answers struct {
	byStatus string // "200 1234", or more, each after a comma
	wanted   int    // requests that the rate asks for in the time that it took
}

// load makes requests at a rate as long as change takes, on connections that are kept
// and on new ones, and returns what came of them.
func load(ctx context.Context, namespace string, change func(context.Context)) []answers {
	GinkgoHelper()
	kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "rm", "-f", "/tmp/end")
	all := make([]answers, 2)
	start := time.Now()
	g, running := errgroup.WithContext(ctx)
	for i, more := range []string{"", "-H 'Connection: close'"} {
		g.Go(func() error {
			out, err := tryKubectl(running, "exec", "-n", namespace, "deploy/netutils", "--", "sh", "-c", loading("http://fortio/", more, "/tmp/end"))
			all[i] = answers{
				byStatus: strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "),
				wanted:   int(time.Since(start).Seconds() * perSecond),
			}
			return err
		})
	}
	change(ctx)
	kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "touch", "/tmp/end")
	Expect(g.Wait()).To(Succeed())
	return all
}

// all reports what was lost of a load, or that there was too little of it to show
// anything.
func (a answers) all() error {
	var n int
	if _, err := fmt.Sscanf(a.byStatus, "200 %d", &n); err != nil || a.byStatus != fmt.Sprintf("200 %d", n) {
		return fmt.Errorf("answers by status: %q", a.byStatus)
	}
	if n < a.wanted/5 {
		return fmt.Errorf("%d requests, where the rate asks for %d", n, a.wanted)
	}
	return nil
}

// allAnswered holds that no request of a load was lost.
func allAnswered(all []answers) {
	GinkgoHelper()
	for _, a := range all {
		Expect(a.all()).To(Succeed())
		say("under load: answers by status %s, where the rate asks for %d", a.byStatus, a.wanted)
	}
}

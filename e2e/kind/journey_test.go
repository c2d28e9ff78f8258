package kind

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/scenario"
)

// requests is how many make the share of a version: 85 of 15 would be told from 90 of
// 10.
const requests = 4000

// What a person types, as README.md and docs/kubernetes.md say it.
var _ = Describe("the journey", Ordered, Label(smoke), func() {
	const namespace = "journey"

	BeforeAll(func(ctx SpecContext) {
		enrolled(ctx, namespace)
		kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-route.yaml", "-f", "samples/fortio/netutils.yaml")
		rolledOut(ctx, namespace, "fortio-v1", "fortio-v2", "netutils")
	}, NodeTimeout(8*time.Minute))

	It("writes the annotation on the pods", func(ctx SpecContext) {
		Eventually(ctx, func() string {
			return kubectl(ctx, "get", "pods", "-n", namespace, "-o",
				`jsonpath={range .items[*]}{.metadata.annotations.kmesh\.net/redirection}{"\n"}{end}`)
		}, patience).Should(Equal(strings.Repeat("enabled\n", 3)))
	}, SpecTimeout(6*time.Minute))

	It("spreads connections evenly without a waypoint", func(ctx SpecContext) {
		shares(ctx, namespace, .5, curlConnections)
	}, SpecTimeout(6*time.Minute))

	Context("with a waypoint", Ordered, func() {
		BeforeAll(func(ctx SpecContext) {
			kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/waypoint.yaml")
			kubectl(ctx, "wait", "-n", namespace, "--for=condition=Programmed", "gateway/waypoint", "--timeout=150s")
			rolledOut(ctx, namespace, "waypoint")
			kubectl(ctx, "label", "service", "-n", namespace, "fortio", "istio.io/use-waypoint=waypoint")
			passesWaypoint(ctx, namespace)
		}, NodeTimeout(8*time.Minute))

		It("answers one request in ten by v2, on connections that are kept", func(ctx SpecContext) {
			before := through(ctx, namespace)
			shares(ctx, namespace, .1, curlRequests)
			Expect(through(ctx, namespace)-before).To(BeNumerically(">=", requests), "requests that the waypoint has sent on")
		}, SpecTimeout(6*time.Minute))

		It("answers one connection in ten by v2, each by way of the waypoint", func(ctx SpecContext) {
			judge := observe(ctx, namespace)
			before := through(ctx, namespace)
			shares(ctx, namespace, .1, curlConnections)
			Expect(through(ctx, namespace)-before).To(BeNumerically(">=", requests), "requests that the waypoint has sent on")
			client := kubectl(ctx, "get", "pods", "-n", namespace, "-l", "app=netutils", "-o", "jsonpath={.items[0].metadata.name}")
			toWaypoint, around := judge.opened(ctx, addressOf(ctx, namespace, client))
			Expect([]int{toWaypoint, around}).To(Equal([]int{requests, 0}), "connections of the client to the waypoint, and around it")
			say("the judge: %d connections of the client to the waypoint, %d around it", toWaypoint, around)
		}, SpecTimeout(6*time.Minute))

		It("follows a rule by header", func(ctx SpecContext) {
			kubectl(ctx, "apply", "-n", namespace, "-f", "samples/fortio/fortio-header.yaml")
			Eventually(ctx, func() string { return counted(ctx, namespace, curlHeader("end-user: jason", 100)) }, patience).
				Should(Equal("server: 2 100"))
			Expect(counted(ctx, namespace, curlHeader("end-user: other", 100))).To(Equal("server: 1 100"))
		}, SpecTimeout(5*time.Minute))
	})
})

// curl asks for the service and prints what `grep -i ^server:` finds, counted.
const count = ` | grep -i '^server:' | tr -d '\r' | tr A-Z a-z | sort | uniq -c | awk '{print $2, $3, $1}'`

// curlRequests makes requests on connections that are kept, some hundred on each.
func curlRequests(n int) string {
	return fmt.Sprintf(`for i in $(seq 10); do curl -s -o /dev/null -D - "http://fortio/[1-%d]"; done`, n/10) + count
}

// curlConnections makes a connection for each request.
func curlConnections(n int) string {
	return fmt.Sprintf(`curl -s -o /dev/null -D - -H 'Connection: close' "http://fortio/[1-%d]"`, n) + count
}

func curlHeader(header string, n int) string {
	return fmt.Sprintf(`curl -s -o /dev/null -D - -H '%s' "http://fortio/[1-%d]"`, header, n) + count
}

// counted runs a command in the client's pod and returns its lines in one.
func counted(ctx context.Context, namespace, command string) string {
	GinkgoHelper()
	out := kubectl(ctx, "exec", "-n", namespace, "deploy/netutils", "--", "sh", "-c", command)
	return strings.ReplaceAll(strings.TrimSpace(out), "\n", ", ")
}

var line = regexp.MustCompile(`server: ([12]) (\d+)`)

// shares holds the share of v2 against what is wanted, by the exact binomial
// distribution.
func shares(ctx context.Context, namespace string, want float64, command func(int) string) {
	GinkgoHelper()
	got := counted(ctx, namespace, command(requests))
	n := map[string]int{}
	for _, m := range line.FindAllStringSubmatch(got, -1) {
		n[m[1]] = must(strconv.Atoi(m[2]))
	}
	Expect(n["1"]+n["2"]).To(Equal(requests), got)
	ok := scenario.Accepted(requests, want)
	say("share of v2: %d of %d, accepted %d to %d for %g", n["2"], requests, ok.Low, ok.High, want)
	Expect(n["2"]).To(And(BeNumerically(">=", ok.Low), BeNumerically("<=", ok.High)), got)
}

// staying are the names of what does not leave: a pod that does has no network any more,
// and is listed until its grace is over.
const staying = `go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}`

// through is how many requests the waypoint says that it has sent on.
func through(ctx context.Context, namespace string) uint64 {
	GinkgoHelper()
	pods := strings.Fields(kubectl(ctx, "get", "pods", "-n", namespace, "-o", staying,
		"-l", "gateway.networking.k8s.io/gateway-name=waypoint"))
	var sum uint64
	for _, p := range pods {
		out := kubectl(ctx, "get", "--raw", "/api/v1/namespaces/"+namespace+"/pods/"+p+":15020/proxy/stats/prometheus")
		for l := range strings.Lines(out) {
			var n float64
			if !strings.Contains(l, "upstream_rq_total{") || !strings.Contains(l, "inbound-vip|80|http") {
				continue
			}
			if _, err := fmt.Sscan(l[strings.LastIndex(l, " ")+1:], &n); err == nil {
				sum += uint64(math.Round(n))
			}
		}
	}
	return sum
}

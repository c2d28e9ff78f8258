package istiod

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// gib is 2^30 bytes.
const gib = 1 << 30

// What passes through a waypoint of istiod's, by what is spoken.
var _ = Describe("through a waypoint", Ordered, Label(byWaypoint), func() {
	var c *netsim.Cluster
	BeforeAll(func(ctx SpecContext) { c = through(ctx, netsim.Config{}, "waypoint", "waypoint2") }, NodeTimeout(2*time.Minute))

	// entered counts the connections that the waypoints were handed.
	entered := func(ctx SpecContext) uint64 {
		GinkgoHelper()
		n := uint64(0)
		for _, pod := range []string{"waypoint", "waypoint2"} {
			n += sum(must(c.WaypointCounters(ctx, pod, `^listener\.handoff_direct\.downstream_cx_total$`)))
		}
		return n
	}

	DescribeTable("passes", func(ctx SpecContext, t web.Task, holds func(r web.Result)) {
		before := entered(ctx)
		r := send(ctx, c, "client", t)
		Expect(r.Error).To(BeEmpty())
		Expect(r.Failed).To(BeZero(), r.First)
		if r.Dials > 0 {
			Expect(entered(ctx)-before).To(BeNumerically("==", r.Dials), "connections that the waypoints have seen")
		} else {
			Expect(entered(ctx)).To(BeNumerically(">", before), "no waypoint has seen it")
		}
		holds(r)
	},
		Entry("HTTP/1.1", SpecTimeout(time.Minute), web.Task{Do: "http", URL: echoURL, Count: 200, Conns: 4}, func(r web.Result) {
			Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(800))
			Expect(r.Got).To(And(HaveKey("v1"), HaveKey("v2")))
			Expect(r.Dials).To(Equal(4))
		}),
		Entry("HTTP/1.1 that closes each connection: no answer is lost", SpecTimeout(2*time.Minute),
			web.Task{Do: "http", URL: echoURL, Count: 750, Conns: 4, Close: true}, func(r web.Result) {
				Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(3000))
				Expect(r.Dials).To(Equal(3000))
			}),
		Entry("h2c", SpecTimeout(time.Minute), web.Task{Do: "http", URL: echoURL, Count: 200, H2C: true}, func(r web.Result) {
			Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(200))
			Expect(r.Dials).To(Equal(1))
		}),
		Entry("gRPC, one call after the other", SpecTimeout(time.Minute), web.Task{Do: "grpc", Address: echoVIP + ":81", Count: 200},
			func(r web.Result) { Expect(r.Got["v1"]).To(And(BeNumerically(">", 0), BeNumerically("<", 200))) }),
		Entry("gRPC, a stream of both sides", SpecTimeout(time.Minute), web.Task{Do: "stream", Address: echoVIP + ":81", Count: 200},
			func(r web.Result) { Expect(r.Got["messages"]).To(Equal(200)) }),
		Entry("WebSocket", SpecTimeout(time.Minute), web.Task{Do: "websocket", URL: echoURL + "/ws", Count: 200},
			func(r web.Result) { Expect(r.Got).To(HaveLen(1)) }),
		Entry("server-sent events, each as it is sent", SpecTimeout(time.Minute), web.Task{Do: "events", URL: echoURL + "/sse"},
			func(r web.Result) {
				Expect(r.Got).To(Or(Equal(map[string]int{"v1": 5}), Equal(map[string]int{"v2": 5})))
				times := strings.Fields(r.Text)
				first, last := must(strconv.Atoi(times[0])), must(strconv.Atoi(times[4]))
				Expect(last-first).To(BeNumerically(">=", 100), "they came at once: %s", r.Text)
			}),
		Entry("TCP where the server speaks first", SpecTimeout(time.Minute), web.Task{Do: "banners", Address: echoVIP + ":9000", Count: 500},
			func(r web.Result) { Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(500)) }),
		Entry("TCP whose client closes its half and waits for the answer", SpecTimeout(time.Minute),
			web.Task{Do: "bulk", Address: echoVIP + ":9001", Up: 100, Down: 100}, func(r web.Result) { Expect(r.Got).To(HaveLen(1)) }),
		Entry("1 GiB up, byte by byte", SpecTimeout(3*time.Minute), web.Task{Do: "bulk", Address: echoVIP + ":9001", Up: gib},
			func(r web.Result) { say("1 GiB up through the waypoint in %.1f s", r.Took) }),
		Entry("1 GiB down, byte by byte", SpecTimeout(3*time.Minute), web.Task{Do: "bulk", Address: echoVIP + ":9001", Down: gib},
			func(r web.Result) { say("1 GiB down through the waypoint in %.1f s", r.Took) }),
	)

	It("shares TCP connections by the weights of a rule", func(ctx SpecContext) {
		rule(ctx, c, "VirtualService", "tcp", `
hosts: [echo.default.svc.cluster.local]
tcp:
- match: [{port: 9000}]
  route:
  - {destination: {host: echo-v1.default.svc.cluster.local, port: {number: 9000}}, weight: 90}
  - {destination: {host: echo-v2.default.svc.cluster.local, port: {number: 9000}}, weight: 10}
`)
		for _, pod := range []string{"waypoint", "waypoint2"} {
			Expect(awaitTable(ctx, c, pod, `"name":"outbound|9000||echo-v1.default.svc.cluster.local","weight":90`)).To(Succeed())
		}
		r := send(ctx, c, "client", web.Task{Do: "banners", Address: echoVIP + ":9000", Count: scenario.MinConnections})
		Expect(r.Error).To(BeEmpty())
		checks := scenario.CheckSplit("TCP connections:", map[string]float64{"v1": .9, "v2": .1}, r.Got)
		Expect(checks).To(HaveEach(HaveField("Verdict", report.Pass)))
		control := scenario.CheckSplit("the control:", map[string]float64{"v1": .85, "v2": .15}, r.Got)
		Expect(control).To(ContainElement(HaveField("Verdict", report.Fail)))
		say("TCP by weights: %v", r.Got)
	}, SpecTimeout(2*time.Minute))

	It("keeps 10 000 idle connections over two replicas", func(ctx SpecContext) {
		const n = 10_000
		end := begin(ctx, c, "client", web.Task{Do: "hold", Address: echoVIP + ":9000", Conns: n})
		held := map[string]uint64{}
		for _, pod := range []string{"waypoint", "waypoint2"} {
			held[pod] = sum(must(c.WaypointCounters(ctx, pod, `^listener\.handoff_direct\.downstream_cx_active$`)))
		}
		r := end()
		say("idle connections held: %v; alive afterwards: %v", held, r.Got)
		Expect(held["waypoint"] + held["waypoint2"]).To(BeNumerically("==", n))
		Expect(held).To(HaveEach(BeNumerically(">", n/4)))
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(n))
	}, SpecTimeout(3*time.Minute))

	It("has a waypoint for services and another for workloads", func(ctx SpecContext) {
		forgetLater("own")
		apply(ctx, c, gateway("own", "workload"))
		Expect(label(ctx, "istio.io/use-waypoint", "own", "v3")).To(Succeed())
		join(ctx, c, "own", "waypoint3")
		at := address(c, "v3")
		Eventually(ctx, func() string { return get(ctx, c, fmt.Sprintf("http://%s:%d/echo/", at, web.HTTPPort)).Text }).
			WithTimeout(patience).Should(And(ContainSubstring(`"server":"v3"`), ContainSubstring(address(c, "waypoint3"))))
		// Not a server that speaks first: by the client's first bytes the waypoint chooses. Nor
		// a client that closes its half together with those: Envoy drops it.
		r := send(ctx, c, "client", web.Task{Do: "bulk", Address: fmt.Sprintf("%s:%d", at, web.BulkPort), Up: 1 << 26, Down: 100})
		Expect(r.Error).To(BeEmpty())
		Expect(r.Got).To(Equal(map[string]int{"v3": 1}))
		Expect(get(ctx, c, echoURL+"/echo/").Text).To(Or(ContainSubstring(address(c, "waypoint")+":"), ContainSubstring(address(c, "waypoint2")+":")))
	}, SpecTimeout(2*time.Minute))
})

package istiod

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// split is a VirtualService that sends so many of a hundred requests to v1.
func split(v1 int) string {
	return fmt.Sprintf(`
hosts: [echo.default.svc.cluster.local]
http:
- route:
  - {destination: {host: echo.default.svc.cluster.local, subset: v1}, weight: %d}
  - {destination: {host: echo.default.svc.cluster.local, subset: v2}, weight: %d}
`, v1, 100-v1)
}

// watching is load on kept connections and on such of one request.
func watching() web.Task {
	return web.Task{Do: "watch", URL: echoURL, Conns: 4, Count: 2, PerSecond: 100}
}

// onKept are the samples of connections that are kept.
func onKept(r web.Result) []web.Sample {
	var all []web.Sample
	for _, s := range r.Samples {
		if s.Conn >= 0 {
			all = append(all, s)
		}
	}
	return all
}

// wholeLoad holds a watch to this: no request failed, and no kept connection was made
// again.
func wholeLoad(r web.Result) {
	GinkgoHelper()
	Expect(r.Failed).To(BeZero(), "%d of %d requests; first: %s", r.Failed, len(r.Samples), r.First)
	Expect(r.Dials).To(Equal(4), "kept connections were made anew")
	Expect(len(onKept(r))).To(BeNumerically(">", 100))
}

// l7Away is istiod's outage while requests pass the waypoint, and a change after it.
func l7Away() scenario.Scenario {
	s, _ := scenario.Find("l7/weight/90-10")
	base := s.Phases[0].Loads[0]
	base.Requests, base.PerSecond = 50, 20
	each := outage() * 8 / 7
	load := func(least int) scenario.Load {
		l := base
		l.Connections = max(int(each.Seconds()*l.PerSecond), least)
		return l
	}
	after := base.Want
	after.Split = map[string]float64{"v1": .1, "v2": .9}
	second := load(400)
	second.Then = &after
	changed := s.Objects
	changed.Services = append([]scenario.Service(nil), s.Objects.Services...)
	routes := append([]scenario.Route(nil), changed.Services[0].Routes...)
	routes[1].Backends = []scenario.Backend{{Service: "echo-v1", Port: 80, Weight: 10}, {Service: "echo-v2", Port: 80, Weight: 90}}
	changed.Services[0].Routes = routes
	s.Name, s.Summary = "l7/istiod-killed/under-load", "istiod is away while requests pass the waypoint, then weights change"
	s.Phases = []scenario.Phase{
		{Loads: []scenario.Load{load(160)}, During: []scenario.Action{scenario.KillIstiod{}}},
		{Loads: []scenario.Load{second}, During: []scenario.Action{scenario.StartIstiod{}, scenario.Apply{Objects: changed}}},
	}
	return s
}

var _ = Describe("under load, a waypoint that istiod configures", Label(byWaypoint), func() {
	It("follows new weights on every open connection", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		rule(ctx, c, "VirtualService", "echo", split(100))
		Expect(awaitTable(ctx, c, "waypoint", "|http/v1|")).To(Succeed())
		Eventually(ctx, func() map[string]int {
			return send(ctx, c, "client", web.Task{Do: "http", URL: echoURL, Count: 20}).Got
		}).
			WithTimeout(patience).Should(Equal(map[string]int{"v1": 20}))
		end := begin(ctx, c, "client", watching())
		changes := 10
		var pushed []int64
		for i := range changes {
			apply(ctx, c, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\nspec:\n"+indented(split(100*(i%2))))
			pushed = append(pushed, web.Now())
			Expect(awaitTable(ctx, c, "waypoint", map[bool]string{true: "|http/v2|", false: "|http/v1|"}[i%2 == 0])).To(Succeed())
			to := []string{"v2", "v1"}[i%2]
			Eventually(ctx, func() map[string]int { return send(ctx, c, "client", web.Task{Do: "http", URL: echoURL, Count: 5}).Got }).
				WithTimeout(patience).Should(Equal(map[string]int{to: 5}))
		}
		r := end()
		wholeLoad(r)
		for conn := range 4 {
			Expect(seen(onKept(r), conn)).To(HaveLen(2), "connection %d has not followed", conn)
		}
		var took []time.Duration
		for i, at := range pushed {
			took = append(took, time.Duration(lastOf(onKept(r), []string{"v1", "v2"}[i%2], at, pushed, i)-at))
		}
		say("from the API call to the last request by old weights, 4 kept connections, %s; %d requests, 0 failed, 0 reconnects",
			distribution(took), len(r.Samples))
	}, SpecTimeout(3*time.Minute))

	It("ends no TCP connection when a service on a new port comes", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		end := begin(ctx, c, "client", web.Task{Do: "hold", Address: echoVIP + ":9000", Conns: 50})
		apply(ctx, c, passing("another", "10.96.230.9", "{name: http, port: 8181, targetPort: 7080}"))
		Eventually(ctx, func() int { return get(ctx, c, "http://10.96.230.9:8181").Failed }).WithTimeout(patience).Should(BeZero())
		r := end()
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(50))
	}, SpecTimeout(2*time.Minute))

	It("loses no request of a service that leaves it and comes back", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		apply(ctx, c, passing("stays", "10.96.230.8", "{name: http, port: 80, targetPort: 7080}"))
		kept, fresh := watching(), watching()
		kept.Count, fresh.Conns = 0, 0
		endKept, endFresh := begin(ctx, c, "client", kept), begin(ctx, c, "client2", fresh)
		for range 3 {
			Expect(kubectlLabel(ctx, "service", "echo", "istio.io/use-waypoint-")).To(Succeed())
			Expect(awaitRoutes(ctx, c, map[string]map[string]float64{echoVIP + ":80": {"v1:7080": .5, "v2:7080": .5}})).To(Succeed())
			Expect(get(ctx, c, echoURL+"/echo/").Text).NotTo(ContainSubstring(address(c, "waypoint")), "it still passes the waypoint")
			Expect(kubectlLabel(ctx, "service", "echo", "istio.io/use-waypoint=waypoint")).To(Succeed())
			Expect(awaitRoutes(ctx, c, ledTo("waypoint"))).To(Succeed())
			Eventually(ctx, func() string { return get(ctx, c, echoURL+"/echo/").Text }).WithTimeout(patience).
				Should(ContainSubstring(address(c, "waypoint")))
		}
		r := endFresh()
		Expect(r.Failed).To(BeZero(), "%d of %d; first: %s", r.Failed, len(r.Samples), r.First)
		k := endKept()
		say("a service off and on a waypoint 3 times: %d requests on new connections, 0 failed; %d on kept ones, %d failed, %d dials",
			len(r.Samples), len(k.Samples), k.Failed, k.Dials)
		Expect(k.Failed).To(BeZero(), "%d of %d; first: %s", k.Failed, len(k.Samples), k.First)
	}, SpecTimeout(3*time.Minute))

	It("goes on while istiod is away, and follows when it is back", func(ctx SpecContext) {
		DeferCleanup(func(ctx SpecContext) {
			if !plane.Stack().IstiodRuns() {
				Expect(plane.Stack().StartIstiod(ctx)).To(Succeed())
			}
		})
		r := judged(ctx, l7Away())
		if r.Verdict == report.NotRun {
			Skip("NOT RUN: " + r.Reason)
		}
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
		say("%s: %d connections of 50 requests, outage of at least %s, none failed", r.Scenario, r.Connections, outage())
	}, SpecTimeout(6*time.Minute))

	It("serves again when its Envoy is killed", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		load := watching()
		load.Conns, load.Count, load.PerSecond = 0, 4, 100
		end := begin(ctx, c, "client", load)
		var killed []int64
		for range 3 {
			// It has served for a while, so that the next one stands by.
			Eventually(ctx, func() (uint64, error) {
				n, err := c.WaypointCounters(ctx, "waypoint", `^listener\.handoff_direct\.downstream_cx_total$`)
				return sum(n), err
			}).WithTimeout(patience).Should(BeNumerically(">", 200))
			before := must(c.WaypointStatus(ctx, "waypoint")).Envoy
			Expect(before.StandBy).NotTo(BeZero())
			Expect(syscall.Kill(before.PID, syscall.SIGKILL)).To(Succeed())
			killed = append(killed, web.Now())
			Eventually(ctx, func(g Gomega) {
				s, err := c.WaypointStatus(ctx, "waypoint")
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(s.Ready).To(BeTrue())
				g.Expect(s.Envoy.PID).To(Equal(before.StandBy))
			}).WithTimeout(patience).Should(Succeed())
		}
		r := end()
		Expect(r.Failed).To(BeNumerically(">", 0), "the control: nobody has felt that it was gone")
		var gaps []time.Duration
		for i, at := range killed {
			until := int64(1) << 62
			if i+1 < len(killed) {
				until = killed[i+1]
			}
			gaps = append(gaps, gap(r.Samples, at, until))
		}
		say("Envoy killed: connections fail for %v (%d of %d requests)", gaps, r.Failed, len(r.Samples))
		last := r.Samples[len(r.Samples)-1]
		Expect(last.Error).To(BeEmpty(), "it does not serve again")
	}, SpecTimeout(3*time.Minute))

	It("is scaled from one replica to three and back, and no request fails", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		load := watching()
		load.Conns, load.Count, load.PerSecond = 0, 4, 100
		end := begin(ctx, c, "client", load)
		all := []string{"waypoint", "waypoint2", "waypoint3"}
		for i := range all[1:] {
			Expect(c.JoinGateway(ctx, all[i+1], "waypoint")).To(Succeed())
			Expect(awaitRoutes(ctx, c, ledTo(all[:i+2]...))).To(Succeed())
		}
		used := func(pod string) uint64 {
			return sum(must(c.WaypointCounters(ctx, pod, `^listener\.handoff_direct\.downstream_cx_total$`)))
		}
		for _, pod := range all {
			Eventually(ctx, func() uint64 { return used(pod) }).WithTimeout(patience).Should(BeNumerically(">", 10), pod)
		}
		for i := len(all) - 1; i > 0; i-- {
			// As kubelet does: the process is told to end when the pod is taken away, and
			// the nodes hear of it meanwhile.
			Expect(c.LeaveGateway(ctx, all[i])).To(Succeed())
			Expect(c.EndWaypoint(ctx, all[i])).To(Succeed())
			Expect(awaitRoutes(ctx, c, ledTo(all[:i]...))).To(Succeed())
		}
		before := used("waypoint")
		Eventually(ctx, func() uint64 { return used("waypoint") }).WithTimeout(patience).Should(BeNumerically(">", before+50))
		r := end()
		say("scaled 1→3→1: %d requests on connections of their own, %d failed", len(r.Samples), r.Failed)
		Expect(r.Failed).To(BeZero(), r.First)
	}, SpecTimeout(3*time.Minute))
})

// seen are the servers of one connection.
func seen(all []web.Sample, conn int) []string {
	var found []string
	for _, s := range all {
		if s.Conn == conn && !strings.Contains(strings.Join(found, " "), s.Server) {
			found = append(found, s.Server)
		}
	}
	return found
}

// lastOf is when the last request was asked that a server answered after the i'th push
// and before the next one.
func lastOf(all []web.Sample, server string, from int64, pushed []int64, i int) int64 {
	until := int64(1) << 62
	if i+1 < len(pushed) {
		until = pushed[i+1]
	}
	last := from
	for _, s := range all {
		if s.Server == server && s.Start > from && s.Start < until {
			last = max(last, s.Start)
		}
	}
	return last
}

// gap is the time from a moment to the start of the first request after the last one that
// failed before another.
func gap(all []web.Sample, from, until int64) time.Duration {
	last := from
	for _, s := range all {
		if s.Error != "" && s.End >= from && s.End < until {
			last = max(last, s.End)
		}
	}
	for _, s := range all {
		if s.Error == "" && s.Start >= last && s.Start < until {
			return time.Duration(s.Start - from)
		}
	}
	return time.Duration(last - from)
}

// address is a pod's own.
func address(c *netsim.Cluster, pod string) string {
	GinkgoHelper()
	return must(c.Pod(pod)).IPv4.String()
}

func sum(all map[string]uint64) uint64 {
	n := uint64(0)
	for _, v := range all {
		n += v
	}
	return n
}

// kubectlLabel changes a label of an object by kubectl: "name=value", or "name-".
func kubectlLabel(ctx context.Context, kind, name, change string) error {
	_, err := kubectl(ctx, "", "label", "--overwrite", kind, name, change)
	return err
}

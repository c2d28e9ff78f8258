package istiod

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/netsim"
)

// active counts the connections that a waypoint's Envoy has, handed over and its own.
func active(ctx SpecContext, c *netsim.Cluster) func() uint64 {
	return func() uint64 {
		return sum(must(c.WaypointCounters(ctx, "waypoint",
			`^listener\.handoff_direct\.downstream_cx_active$|^cluster\.inbound-vip.*\.upstream_rq_active$`)))
	}
}

var _ = Describe("a waypoint that istiod configures", Label(byWaypoint), func() {
	It("keeps nothing of clients that break off", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		handed := func() uint64 {
			return sum(must(c.WaypointCounters(ctx, "waypoint", `^listener\.handoff_direct\.downstream_cx_total$`)))
		}
		before := handed()
		r := send(ctx, c, "client", web.Task{Do: "abort", Address: echoVIP + ":80", Count: 40})
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(r.Got).To(HaveLen(12))
		Eventually(ctx, func() uint64 { return handed() - before }).WithTimeout(patience).Should(BeNumerically("==", r.Dials))
		Eventually(ctx, active(ctx, c)).WithTimeout(patience).Should(BeZero())
		Expect(get(ctx, c, echoURL).Failed).To(BeZero())
	}, SpecTimeout(2*time.Minute))

	It("holds 6000 connections on each of three Envoys", func(ctx SpecContext) {
		const each = 6000
		replicas := []string{"waypoint", "waypoint2", "waypoint3"}
		c := through(ctx, netsim.Config{}, replicas...)
		end := begin(ctx, c, "client", web.Task{Do: "hold", Address: echoVIP + ":9000", Conns: each * len(replicas)})
		held, all := map[string]uint64{}, uint64(0)
		for _, pod := range replicas {
			held[pod] = sum(must(c.WaypointCounters(ctx, pod, `^listener\.handoff_direct\.downstream_cx_active$`)))
			all += held[pod]
		}
		r := end()
		say("connections held at a time, by Envoy: %v; alive afterwards: %v", held, r.Got)
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(all).To(BeNumerically("==", each*len(replicas)))
		Expect(held).To(HaveEach(BeNumerically("~", each, each/10)))
		Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(each * len(replicas)))
	}, SpecTimeout(4*time.Minute))

	It("refuses and counts what its descriptors do not suffice for, and lives", func(ctx SpecContext) {
		const limit, most, tried = 1500, 500, 700
		real := waypointExe
		script := filepath.Join(GinkgoT().TempDir(), "limited")
		Expect(os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", limit, real), 0o755)).To(Succeed())
		waypointExe = script
		DeferCleanup(func() { waypointExe = real })
		c := through(ctx, netsim.Config{}, "waypoint")
		before := must(c.WaypointStatus(ctx, "waypoint")).Envoy
		Expect(before.Connections).To(BeNumerically("==", most))
		end := begin(ctx, c, "client", web.Task{Do: "hold", Address: echoVIP + ":9000", Conns: tried})
		r := end()
		counted := sum(must(c.WaypointCounters(ctx, "waypoint", `^listener\.handoff_direct\.downstream_global_cx_overflow$`)))
		say("%d connections to a waypoint with %d descriptors: %d held, %d refused, %d counted", tried, limit, r.Dials, r.Failed, counted)
		Expect(r.Failed).To(BeNumerically(">=", tried-most))
		Expect(counted).To(BeNumerically("==", r.Failed))
		after := must(c.WaypointStatus(ctx, "waypoint")).Envoy
		Expect(after.PID).To(Equal(before.PID), "Envoy has been started again")
		Expect(get(ctx, c, echoURL).Failed).To(BeZero())
	}, SpecTimeout(2*time.Minute))
})

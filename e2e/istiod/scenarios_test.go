package istiod

import (
	"context"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// open makes a cluster whose agents ask the suite's istiod.
func open(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	return openWith(ctx, netsim.Config{}, t)
}

func openWith(ctx context.Context, cfg netsim.Config, t scenario.Topology) (*netsim.Cluster, error) {
	cfg.Agent, cfg.ControlPlane = agentExe, plane
	cfg.Waypoint = waypointExe
	if cfg.Envoy == "" {
		cfg.Envoy = findEnvoy()
	}
	return netsim.Open(ctx, cfg, t)
}

// What is to be shown of istiod does not grow with the number of connections, but a
// share needs 4000 of them, also before a change.
const (
	most        = 6000
	mostChange  = 20_000
	mostChanges = 200
)

func bounded(s scenario.Scenario) scenario.Scenario {
	for i := range s.Phases {
		for j := range s.Phases[i].Loads {
			l := &s.Phases[i].Loads[j]
			before := l.Connections
			l.Connections = min(l.Connections, most)
			if l.Then != nil {
				l.Connections = min(before, mostChange)
			}
			if goesThrough(s.Phases[i]) {
				l.Connections = before // a tenth of three quarters comes before the change
			}
		}
		for j, a := range s.Phases[i].During {
			if c, ok := a.(scenario.Churn); ok {
				c.Changes = min(c.Changes, mostChanges)
				s.Phases[i].During[j] = c
			}
		}
	}
	return s
}

// goesThrough reports whether objects change while most connections are made.
func goesThrough(p scenario.Phase) bool {
	return slices.ContainsFunc(p.During, func(a scenario.Action) bool {
		c, is := a.(scenario.Churn)
		return is && c.Through
	})
}

func judged(ctx context.Context, s scenario.Scenario) report.Result {
	GinkgoHelper()
	return verify.Run(ctx, s, verify.Options{World: "netsim+istiod", Open: open}, 1)
}

// byWaypoint is the label of the specs that need an Envoy and a waypoint of istiod's.
const byWaypoint = "waypoint"

func labelsOf(s scenario.Scenario) Labels {
	if len(s.Objects.WaypointNames()) > 0 {
		return Labels{byWaypoint}
	}
	return nil
}

var _ = Describe("scenario", func() {
	for _, s := range scenario.All() {
		It(s.Name+": "+s.Summary, labelsOf(s), func(ctx SpecContext) {
			r := judged(ctx, bounded(s))
			if r.Verdict == report.NotRun {
				Skip("NOT RUN: " + r.Reason)
			}
			Expect(r.Verdict).To(Equal(report.Pass), explain(r))
		}, SpecTimeout(4*time.Minute))
	}
})

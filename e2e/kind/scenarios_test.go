package kind

import (
	"context"
	"errors"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/kind"
)

// smokes are the scenarios of a short run: each engine once.
var smokes = []string{"clusterip/weight/90-10", "l7/weight/90-10", "l7/no-waypoint/50-50"}

// most is enough connections for every share; what a cluster is to show does not grow
// with their number.
const most = 6000

func bounded(s scenario.Scenario) scenario.Scenario {
	for i := range s.Phases {
		for j := range s.Phases[i].Loads {
			l := &s.Phases[i].Loads[j]
			if l.Then == nil {
				l.Connections = min(l.Connections, most)
			} else {
				l.Connections = min(l.Connections, 4*most)
			}
		}
	}
	return s
}

// here are the scenarios that a cluster can have; elsewhere says of the others why not.
// They are no specs of this suite, and not counted: netsim has them.
func here() (specs []scenario.Scenario, elsewhere []string) {
	for _, s := range scenario.All() {
		if err := kind.Expressible(s); err != nil {
			elsewhere = append(elsewhere, s.Name+": "+err.Error())
			continue
		}
		specs = append(specs, s)
	}
	return specs, elsewhere
}

var _ = Describe("scenario", Label("scenario"), func() {
	specs, _ := here()
	for _, s := range specs {
		var labels Labels
		if slices.Contains(smokes, s.Name) {
			labels = Label(smoke)
		}
		It(s.Name+": "+s.Summary, labels, func(ctx SpecContext) {
			r := verify.Run(ctx, bounded(s), verify.Options{
				World: "kind", Open: kind.Opener(config()), Evidence: evidence("scenarios"),
			}, 1)
			if r.Verdict == report.NotRun {
				Skip("NOT RUN: " + r.Reason)
			}
			Expect(r.Verdict).To(Equal(report.Pass), explain(r))
			say("%s: %d connections judged by %v in %s", r.Scenario, r.Connections, r.Providers, r.Elapsed.Round(time.Second))
		}, SpecTimeout(8*time.Minute))
	}

	It("a pod outside the mesh that is redirected all the same does not pass: the control", func(ctx SpecContext) {
		s, there := scenario.Find("managed/bystander/500")
		Expect(there).To(BeTrue())
		r := verify.Run(ctx, s, verify.Options{World: "kind", Open: func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
			w, err := kind.Opener(config())(ctx, t)
			if err != nil {
				return nil, err
			}
			if err := w.Do(ctx, scenario.Enrol{Pod: "bystander"}); err != nil {
				return nil, errors.Join(err, w.Close())
			}
			return w, nil
		}}, 1)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("fail: fortio:80/IPv4: the socket's peer is as declared: 500 of 500"))
	}, SpecTimeout(4*time.Minute))
})

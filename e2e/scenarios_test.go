package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// openNetsim is the world of these specs. Nodes have an agent of their own where
// the scenario needs that.
func openNetsim(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	var cfg netsim.Config
	if t.Agents {
		cfg.Agent = agentExe
	}
	c, err := netsim.Open(ctx, cfg, t)
	if err != nil {
		return nil, err
	}
	return c, nil
}

var _ = Describe("scenario on netsim", Label("netsim"), func() {
	for _, s := range scenario.All() {
		It(s.Name, func(ctx SpecContext) {
			r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openNetsim}, uint64(GinkgoRandomSeed()))
			if r.Verdict == report.NotRun {
				Skip("NOT RUN: " + r.Reason)
			}
			Expect(r.Verdict).To(Equal(report.Pass), explain(r))
			Expect(r.Providers).To(HaveKey("asked"))
		}, SpecTimeout(3*time.Minute))
	}
})

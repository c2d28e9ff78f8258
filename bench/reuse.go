package bench

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
)

// Many is a World in which a client's service has others beside it that lead to the
// same server.
type Many interface {
	// Others are the addresses of a cell's other services as the client asks for them.
	Others(c plan.Cell) ([]string, error)
}

// reuseLoad is how many trials' time the many connections of a variant take.
const reuseLoad = 4

// reused lets one pod make short connections, first to one service, then to several in
// turn. Nothing is timed after it: what it leaves in TIME_WAIT would disturb.
func reused(ctx context.Context, w World, p plan.Plan) (all []result.Reuse, err error) {
	many, ok := w.(Many)
	if !ok || !slices.Contains(p.Modes, plan.NewConn) {
		return nil, nil
	}
	for _, v := range p.Variants {
		if !v.Traits().Many {
			continue
		}
		c := plan.Cell{Placement: p.Placements[0], Mode: plan.NewConn, Variant: v}
		site, err := w.Site(c)
		if err != nil {
			return all, err
		}
		others, err := many.Others(c)
		if err != nil {
			return all, err
		}
		for _, addresses := range [][]string{{site.Address}, others} {
			r, err := reuse(ctx, site, p, c, addresses)
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			if err != nil {
				r.Reason = err.Error()
			}
			all = append(all, r)
		}
	}
	return all, nil
}

// reuse asks the addresses in turn, each for its share of the time.
func reuse(ctx context.Context, site Site, p plan.Plan, c plan.Cell, addresses []string) (result.Reuse, error) {
	r := result.Reuse{Cell: c, Services: len(addresses)}
	p.Warmup, p.Duration = 0, reuseLoad*p.Duration/time.Duration(len(addresses))
	var took stats.Sorted
	for _, a := range addresses {
		site.Address = a
		_, res, err := runTrial(ctx, site, p, c)
		if err != nil {
			return r, fmt.Errorf("service %s: %w", a, err)
		}
		samples, err := load.ReadSamples(bytes.NewReader(res.Samples))
		if err != nil {
			return r, err
		}
		r.Connections += res.Report.Connections
		r.Errors += res.Report.Errors
		r.Repeated += res.Report.Retransmits
		r.Refused += res.Report.TimeWaits
		took = append(took, result.Latencies(samples)...)
	}
	if len(took) == 0 {
		return r, fmt.Errorf("none of %d connections was answered", r.Connections)
	}
	slices.Sort(took)
	r.P50, r.P99 = took.Quantile(0.5), took.Quantile(0.99)
	for _, us := range took {
		if us > float64(result.LateAfter.Microseconds()) {
			r.Late++
		}
	}
	return r, nil
}

package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/wire"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/report"
)

// proved lets every row of a node proxy prove what it claims: which ports its
// packets have on the server's link, whether the application's bytes are there in
// clear, and what the proxies counted with which identities. The row direct
// proves that the eye sees: there the bytes must be found.
func proved(ctx context.Context, w World, p plan.Plan) ([]report.Check, error) {
	var all []report.Check
	needed := false
	for _, v := range p.Variants {
		needed = needed || v.Traits().Redirect
	}
	if !needed {
		return nil, nil
	}
	for _, c := range passCells(p, plan.NewConn) {
		if !c.Variant.Traits().Redirect && c.Variant != plan.Direct {
			continue
		}
		site, err := w.Site(c)
		if err != nil {
			return all, err
		}
		check, err := prove(ctx, site, p, c)
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		if err != nil {
			check = report.Check{Name: proofName(c), Verdict: report.Inconclusive, Detail: err.Error()}
		}
		all = append(all, check)
	}
	return all, nil
}

func proofName(c plan.Cell) string { return "on the wire: " + c.String() }

// evidence is what was found beside one trial.
type evidence struct {
	connections  int64
	wire         wire.Counts
	client, peer uint64 // connections as the client's and the server's proxy count them
}

func prove(ctx context.Context, site Site, p plan.Plan, c plan.Cell) (report.Check, error) {
	server, ok := site.Server.Handle()
	if !ok || p.Load.PayloadBytes < len(load.Canary) {
		return report.Check{
			Name: proofName(c), Verdict: report.NotRun,
			Detail: "NOT RUN: the pods cannot be observed, or the payload has no room for a mark",
		}, nil
	}
	p.Warmup, p.Duration = 0, passDuration
	var found evidence
	before, err := openedOf(ctx, site)
	if err != nil {
		return report.Check{}, err
	}
	for _, l := range server.Links {
		if l.InPod {
			continue
		}
		tap, err := wire.Open(l.Netns, l.Ifindex, []byte(load.Canary))
		if err != nil {
			return report.Check{}, err
		}
		t, _, err := runTrial(ctx, site, p, c)
		counts, stopErr := tap.Close()
		if err := errors.Join(err, stopErr); err != nil {
			return report.Check{}, err
		}
		found.wire, found.connections = counts, t.Client.Connections
	}
	after, err := openedOf(ctx, site)
	if err != nil {
		return report.Check{}, err
	}
	if site.Proxies != nil {
		want := site.Proxies.Want()
		found.client = countOf(after, want) - countOf(before, want)
		want.Reporter = ambient.ReporterDest
		found.peer = countOf(after, want) - countOf(before, want)
	}
	return weigh(c, site.ServerPort, found), nil
}

func openedOf(ctx context.Context, site Site) ([]ambient.Opened, error) {
	if site.Proxies == nil {
		return nil, nil
	}
	return site.Proxies.Opened(ctx)
}

// weigh holds the evidence of one row against what the row says of itself.
func weigh(c plan.Cell, serverPort uint16, e evidence) report.Check {
	tunnel, plain, clear := e.wire.Ports[ambient.HBONEPort], e.wire.Ports[serverPort], e.wire.Marked
	sealed := c.Variant.Traits().Security == plan.MutualTLS
	ok := e.connections > 0
	if sealed {
		ok = ok && tunnel > 0 && plain == 0 && clear == 0
	} else {
		ok = ok && tunnel == 0 && plain > 0 && clear > 0
	}
	detail := fmt.Sprintf("%d connections; on the server's link %d packets of port %d, %d of port %d, %d with the application's bytes in clear",
		e.connections, tunnel, ambient.HBONEPort, plain, serverPort, clear)
	if c.Variant.Traits().Redirect {
		ok = ok && e.client == uint64(e.connections) && e.peer == uint64(e.connections)
		known := "the server's identity"
		if sealed {
			known = "both identities"
		}
		detail += fmt.Sprintf("; with %s the client's proxy counted %d, the server's %d", known, e.client, e.peer)
	}
	check := report.Checkf(proofName(c), ok, "%s", detail)
	if e.wire.Lost > 0 {
		check.Verdict = report.Inconclusive
		check.Detail += fmt.Sprintf("; %d packets were not seen", e.wire.Lost)
	}
	return check
}

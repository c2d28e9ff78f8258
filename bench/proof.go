package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/wire"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
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
		return report.Check{ // nobody vouches for the row
			Name: proofName(c), Verdict: report.Inconclusive,
			Detail: "NOT RUN: the pods cannot be observed, or the payload has no room for a mark",
		}, nil
	}
	p.Warmup = 0
	var found evidence
	before, err := openedOf(ctx, site)
	if err != nil {
		return report.Check{}, err
	}
	watch := links(server)
	if site.Proxy != nil {
		if proxy, ok := site.Proxy.Handle(); ok {
			watch = append(watch, links(proxy)...)
		}
	}
	if found.wire, err = tapped(watch, func() error {
		t, _, err := runTrial(ctx, site, p, c)
		found.connections = t.Client.Connections
		return err
	}); err != nil {
		return report.Check{}, err
	}
	after, err := openedOf(ctx, site)
	if err != nil {
		return report.Check{}, err
	}
	if site.Proxies != nil {
		client, peer := site.Proxies.Want()
		found.client = countOf(after, client) - countOf(before, client)
		found.peer = countOf(after, peer) - countOf(before, peer)
	}
	return weigh(c, site.ServerPort, found), nil
}

// links are the node's ends of a pod's links.
func links(h scenario.PodHandle) []scenario.LinkEnd {
	return slices.DeleteFunc(slices.Clone(h.Links), func(l scenario.LinkEnd) bool { return l.InPod })
}

// tapped looks at the links while f runs.
func tapped(links []scenario.LinkEnd, f func() error) (sum wire.Counts, err error) {
	sum.Ports = map[uint16]uint64{}
	var taps []*wire.Tap
	for _, l := range links {
		t, e := wire.Open(l.Netns, l.Ifindex, []byte(load.Canary))
		if e != nil {
			err = e
			break
		}
		taps = append(taps, t)
	}
	if err == nil {
		err = f()
	}
	for _, t := range taps {
		n, e := t.Close()
		err = errors.Join(err, e)
		for port, packets := range n.Ports {
			sum.Ports[port] += packets
		}
		sum.Marked, sum.Lost = sum.Marked+n.Marked, sum.Lost+n.Lost
	}
	return sum, err
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
	where := "the server's link"
	if c.Variant.Proxied() {
		where = "the links of the server and of the waypoint"
	}
	detail := fmt.Sprintf("%d connections; on %s %d packets of port %d, %d of port %d, %d with the application's bytes in clear",
		e.connections, where, tunnel, ambient.HBONEPort, plain, serverPort, clear)
	if c.Variant.Traits().Redirect {
		ok = ok && e.client == uint64(e.connections)
		if c.Variant.Proxied() { // Envoy keeps its connections to the server
			ok = ok && e.peer >= 1 && e.peer <= e.client
		} else {
			ok = ok && e.peer == uint64(e.connections)
		}
		known := "the server's identity"
		switch {
		case c.Variant.Proxied():
			known = "the identities of client, waypoint and server"
		case sealed:
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

package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

// evidence is all that three witnesses said of one phase.
type evidence struct {
	loads  []*loadEvidence
	served map[uint64][]servedConn
	// known are the IDs of all client connections of the run, this phase's and
	// those before it: servers report since the world opened.
	known  map[uint64]bool
	ledger ledger
	// second is what other providers saw of the same; nil where none was asked.
	second *ledger
	pods   map[string]scenario.PodHandle
	change window
	// churned are the objects that a churn of the phase goes through.
	churned []scenario.Objects
	// history is which objects nodes had while they were churned; nil where the
	// world does not tell.
	history []scenario.Held
	// replicas are the addresses of each waypoint's pods, by its name.
	replicas map[string]map[netip.Addr]string
	// handOffPorts are those that connections may come to, by the same.
	handOffPorts map[string][]uint16
	// entering are those of client connections, as a waypoint's kernel knows them.
	entering map[netip.AddrPort]bool
	// forwarded is how many requests the waypoints say they have sent on in the phase.
	forwarded tally
	// silent are the servers that did not tell all that they saw, and why.
	silent map[string]error
	// cutShort is what ended the loads before their time; nil: nothing did.
	cutShort error
}

// loadEvidence is a load and what its clients reported.
type loadEvidence struct {
	load  scenario.Load
	asked netip.AddrPort

	mu    sync.Mutex // while clients report
	conns []clientConn
	so    progress
	// gaveUp are the pods whose clients made no more connections.
	gaveUp []string
}

// report takes the connections of a pod's client, and whether it gave up.
func (le *loadEvidence) report(pod string, conns []traffic.Conn, gaveUp bool) {
	le.mu.Lock()
	defer le.mu.Unlock()
	if gaveUp {
		le.gaveUp = append(le.gaveUp, pod)
	}
	for _, c := range conns {
		le.conns = append(le.conns, clientConn{pod, c})
	}
}

// hopeless reports whether a client of the load gave up.
func (le *loadEvidence) hopeless() bool {
	le.mu.Lock()
	defer le.mu.Unlock()
	return len(le.gaveUp) > 0
}

type clientConn struct {
	pod string
	traffic.Conn
}

type servedConn struct {
	pod string
	traffic.Conn
}

// window is when the changes of a phase were made, CLOCK_MONOTONIC
// nanoseconds; zero when there were none.
type window struct{ start, end int64 }

type gatherer struct {
	world    scenario.World
	options  Options
	scenario scenario.Scenario
	topology scenario.Topology
	known    map[uint64]bool
	waited   time.Duration // for the loads of others
}

func (g *gatherer) gather(ctx context.Context, ph scenario.Phase) (evidence, error) {
	for _, a := range ph.Before {
		if err := g.world.Do(ctx, a); err != nil {
			return evidence{}, meshError{fmt.Errorf("%s: %w", a, err)}
		}
	}
	e := evidence{pods: map[string]scenario.PodHandle{}, churned: churnedIn(ph.During)}
	if err := g.handles(&e); err != nil {
		return evidence{}, err
	}
	options, err := g.watched(ph, &e)
	if err != nil {
		return evidence{}, err
	}
	judge, err := openJudge(ctx, e.pods, options)
	if err != nil {
		return evidence{}, err
	}
	defer judge.Close()
	second, err := g.openSecond(ctx, e.pods, options)
	if err != nil {
		return evidence{}, err
	}
	if second != nil {
		defer second.Close()
	}
	before := g.forwarded(ctx)
	e.cutShort = g.inTurn(ctx, func() error { return g.drive(ctx, ph, &e) })
	if e.cutShort != nil && (errors.Is(e.cutShort, scenario.ErrNotExpressible) || !e.told()) {
		return evidence{}, e.cutShort
	}
	// What was seen until the loads were cut short is collected all the same.
	ctx, cancel := afterCut(ctx)
	defer cancel()
	e.forwarded = g.forwarded(ctx).since(before)
	if err := g.collect(ctx, judge, &e); err != nil || second == nil {
		return e, err
	}
	again, err := second.ledger(ctx)
	e.second = &again
	return e, err
}

// told reports whether any client told of a connection.
func (e *evidence) told() bool {
	return slices.ContainsFunc(e.loads, func(le *loadEvidence) bool { return le != nil && len(le.conns) > 0 })
}

// cutTime bounds what is done yet after a run was interrupted.
const cutTime = 20 * time.Second

// afterCut is ctx, or where that is over one with a little time left.
func afterCut(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), cutTime)
}

// inTurn runs loads when no other scenario's do.
func (g *gatherer) inTurn(ctx context.Context, loads func() error) error {
	if g.options.turn == nil {
		return loads()
	}
	start := time.Now()
	select {
	case g.options.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.waited += time.Since(start)
	defer func() { <-g.options.turn }()
	return loads()
}

func (g *gatherer) handles(e *evidence) error {
	for _, n := range g.topology.Nodes {
		for _, p := range n.Pods {
			h, err := g.world.Pod(p.Name)
			if err != nil {
				return fmt.Errorf("pod %s: %w", p.Name, err)
			}
			e.pods[p.Name] = h
		}
	}
	e.replicas, e.handOffPorts = g.replicas(e.pods), map[string][]uint16{}
	for name := range e.replicas {
		e.handOffPorts[name] = g.scenario.HandOffPorts(name)
	}
	return nil
}

// collect reads the servers' side and the ledger once everything has ended.
func (g *gatherer) collect(ctx context.Context, judge *judge, e *evidence) error {
	served, err := g.world.Served(ctx)
	var silent *traffic.SilentError
	switch {
	case errors.As(err, &silent):
		e.silent = silent.Pods
	case err != nil:
		return fmt.Errorf("read what servers saw: %w", err)
	}
	e.served = map[uint64][]servedConn{}
	for pod, conns := range served {
		for _, c := range conns {
			e.served[c.ID] = append(e.served[c.ID], servedConn{pod, c})
		}
	}
	e.entering = map[netip.AddrPort]bool{}
	for _, le := range e.loads {
		for _, c := range le.conns {
			g.known[c.ID] = true
			e.entering[plain(c.Local)] = true
		}
	}
	e.known = g.known
	if c, can := g.world.(scenario.Chronicler); can {
		e.history = c.History()
	}
	e.ledger, err = judge.ledger(ctx)
	return err
}

// churnedIn are the objects of all churns among changes.
func churnedIn(during []scenario.Action) []scenario.Objects {
	var all []scenario.Objects
	for _, a := range during {
		if c, is := a.(scenario.Churn); is {
			all = append(all, c.Between...)
		}
	}
	return all
}

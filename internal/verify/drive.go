package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

// drive runs the loads of a phase side by side and makes the changes when half
// of the first connections of each load are through; a churn that is to go on all the
// while begins earlier, see scenario.Churn. A load that a change
// concerns has a last part that starts when the changes have been made: however
// long they took, there is something to judge after them.
func (g *gatherer) drive(ctx context.Context, ph scenario.Phase, e *evidence) error {
	half, over := newMilestone(ph.Loads, 1, 2), newMilestone(ph.Loads, 9, 10)
	if goesThrough(ph.During) {
		half = newMilestone(ph.Loads, 1, 10)
	}
	changed := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	if err := g.resolve(ph, e); err != nil {
		return err
	}
	defer g.report(e.loads)()
	for i, le := range e.loads {
		first, last := parts(le.load)
		count, countOver := half.counter(i), over.counter(i)
		g.startLoad(ctx, group, le, part{connections: first, done: func() { count(); countOver() }})
		if last > 0 {
			g.startLoad(ctx, group, le, part{connections: last, after: changed, done: func() {}})
		}
	}
	if len(ph.During) > 0 {
		e.change = window{math.MaxInt64, math.MaxInt64} // not yet
		group.Go(func() error {
			if err := await(ctx, half.reached); err != nil {
				return err
			}
			defer close(changed)
			return g.change(ctx, through(ph.During, over.reached), &e.change)
		})
	}
	return group.Wait()
}

// resolve makes the evidence of each load.
func (g *gatherer) resolve(ph scenario.Phase, e *evidence) error {
	for i, l := range ph.Loads {
		asked, err := g.world.Resolve(l.To)
		if err != nil {
			return fmt.Errorf("load %d: %w", i+1, err)
		}
		e.loads = append(e.loads, &loadEvidence{load: l, asked: asked})
	}
	return nil
}

// part is some connections of a load; after, where set, is waited for.
type part struct {
	connections int
	after       <-chan struct{}
	done        func()
}

// parts splits a load into what runs into the change and what comes after it.
func parts(l scenario.Load) (first, last int) {
	if l.Then != nil {
		last = max(l.Connections/4, len(l.From))
	}
	return l.Connections - last, last
}

func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gatherer) change(ctx context.Context, actions []scenario.Action, w *window) error {
	w.start = traffic.Monotonic()
	for _, a := range actions {
		if err := g.world.Do(ctx, a); err != nil {
			return meshError{fmt.Errorf("%s: %w", a, err)}
		}
	}
	w.end = traffic.Monotonic()
	return nil
}

// startLoad starts one child in each client pod for a part of a load.
func (g *gatherer) startLoad(ctx context.Context, group *errgroup.Group, le *loadEvidence, p part) {
	l := le.load
	workers := l.Workers
	if workers == 0 {
		workers = 4
	}
	for i, pod := range l.From {
		n := p.connections / len(l.From)
		if i < p.connections%len(l.From) {
			n++
		}
		spec := traffic.Load{
			To: le.asked, Connections: n, Workers: workers, Bytes: 64, PerSecond: l.PerSecond / float64(len(l.From)),
			UDP: isUDP(l), Datagrams: l.Datagrams, Unconnected: l.Unconnected, ServerFirst: l.ServerFirst,
		}
		if isHTTP(l) {
			spec.Bytes, spec.HTTP = 0, &traffic.HTTP{Requests: l.Requests, Headers: l.Headers, Close: l.Close}
		}
		group.Go(func() error {
			if p.after != nil {
				if err := await(ctx, p.after); err != nil || le.hopeless() {
					return err
				}
			}
			counted := 0
			conns, err := g.world.Exec(ctx, pod, spec, func(c traffic.Conn) {
				le.saw(c)
				// With HTTP, a connection counts when half of its requests are through.
				if isHTTP(l) == (c.Role == traffic.Progress) {
					counted++
					p.done()
				}
			})
			gaveUp := errors.Is(err, traffic.ErrGaveUp)
			le.report(pod, conns, gaveUp)
			if err != nil && !gaveUp {
				return fmt.Errorf("load in pod %s: %w", pod, err)
			}
			for range n - counted {
				p.done() // nobody waits for what will not come
			}
			return nil
		})
	}
}

// goesThrough reports whether a change goes on while connections are made.
func goesThrough(during []scenario.Action) bool {
	return slices.ContainsFunc(during, func(a scenario.Action) bool {
		c, is := a.(scenario.Churn)
		return is && c.Through
	})
}

// through tells the churns that go on all the while when they may end.
func through(during []scenario.Action, over <-chan struct{}) []scenario.Action {
	told := slices.Clone(during)
	for i, a := range told {
		if c, is := a.(scenario.Churn); is && c.Through {
			c.Over = over
			told[i] = c
		}
	}
	return told
}

// milestone closes reached once every load has made a share of its first
// connections.
type milestone struct {
	mu      sync.Mutex
	left    []int
	waiting int
	reached chan struct{}
}

// newMilestone is at n/of of the first connections of each load.
func newMilestone(loads []scenario.Load, n, of int) *milestone {
	m := &milestone{waiting: len(loads), reached: make(chan struct{})}
	for _, l := range loads {
		first, _ := parts(l)
		m.left = append(m.left, max(first*n/of, 1))
	}
	return m
}

func (m *milestone) counter(i int) func() {
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.left[i]--
		if m.left[i] != 0 {
			return
		}
		if m.waiting--; m.waiting == 0 {
			close(m.reached)
		}
	}
}

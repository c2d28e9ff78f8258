package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// numbered is an update with its place in the order in which they came.
type numbered struct {
	Update
	n     int
	shown time.Time // since when the kernel has it; zero before
}

// follower applies updates one after the other. While one is being applied only
// the newest of those that come waits: a state that another has replaced is no
// state to be in.
type follower struct {
	// apply deals with an update that has a state, refuse with one that has none.
	apply  func(context.Context, numbered)
	refuse func(numbered)
	// busy is told when there is something to do, and when there is not.
	busy func(bool)

	last    int // number of the newest update
	waiting *numbered
	running chan struct{} // closed when the Apply that runs is done; nil: none
}

// run returns when ctx has ended and nothing is being applied.
func (f *follower) run(ctx context.Context, updates <-chan Update) {
	for {
		f.next(ctx)
		f.busy(f.running != nil)
		select {
		case <-ctx.Done():
			if f.running != nil {
				<-f.running
			}
			return
		case <-f.running:
			f.running = nil
		case u, open := <-updates:
			if !open {
				updates = nil
				continue
			}
			f.take(u)
		}
	}
}

func (f *follower) take(u Update) {
	f.last++
	n := numbered{Update: u, n: f.last}
	if u.Err != nil {
		f.refuse(n)
		return
	}
	f.waiting = &n
}

// next begins with the update that waits when no other is being applied.
func (f *follower) next(ctx context.Context) {
	if f.waiting == nil || f.running != nil {
		return
	}
	u, done := *f.waiting, make(chan struct{})
	f.waiting, f.running = nil, done
	go func() {
		defer close(done)
		f.apply(ctx, u)
	}()
}

func (a *Agent) follow(ctx context.Context, updates <-chan Update) {
	f := follower{
		apply:  a.apply,
		refuse: func(u numbered) { a.refuse(u, u.Err) },
		busy:   a.state.busy,
	}
	f.run(ctx, updates)
}

func (a *Agent) apply(ctx context.Context, u numbered) {
	err := a.node.Apply(ctx, u.Snapshot)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		a.refuse(u, err)
	default:
		u.shown = a.node.Shown()
		if !u.Received.IsZero() {
			a.delay.Observe(u.shown.Sub(u.Received).Seconds())
		}
		a.pods.endStale()
		a.warn(u.Policies)
		a.state.succeed(u)
		a.cfg.Log.Debug("applied", "version", u.Version, "services", len(u.Snapshot.Services))
	}
}

func (a *Agent) refuse(u numbered, err error) {
	words := shortened(err.Error())
	a.cfg.Log.Error("an update was refused, the state before it goes on", "version", u.Version, "err", words)
	a.state.refuse(u, words)
}

// shortened keeps the first lines of an error: a large mesh may have the same trouble
// very often.
func shortened(text string) string {
	const most = 20
	lines := strings.Split(text, "\n")
	if more := len(lines) - most; more > 0 {
		return strings.Join(lines[:most], "\n") + fmt.Sprintf("\nand %d more", more)
	}
	return text
}

// warn names the policies that are new, once.
func (a *Agent) warn(policies []*intent.Policy) {
	_, before := a.state.applies()
	known := map[string]bool{}
	for _, p := range before {
		known[p.Key()] = true
	}
	for _, p := range policies {
		if !known[p.Key()] && !p.DryRun {
			a.cfg.Log.Warn("policy received, NOT ENFORCED", "policy", p.Key())
		}
	}
}

// succeed makes an update the state of the node.
func (s *state) succeed(u numbered) {
	s.change(func() {
		s.status.Applied = api.Applied{
			Generation: s.status.Applied.Generation + 1, Version: u.Version, At: time.Now(), Shown: u.shown,
			Services: len(u.Snapshot.Services), Workloads: len(u.Snapshot.Workloads),
		}
		s.snapshot, s.policies, s.view = u.Snapshot, u.Policies, nil
		s.status.Source.Unused = u.Unused
		s.see(u, "")
	})
	select {
	case s.applied <- struct{}{}:
	default: // the audit has not begun with the one before
	}
}

func (s *state) refuse(u numbered, problem string) {
	s.change(func() {
		s.see(u, problem)
		s.status.Source.Errors++
	})
}

// see remembers what became of the newest update: one that came while another was
// being applied may be refused before that one is done.
func (s *state) see(u numbered, problem string) {
	if u.n > s.newest {
		s.newest = u.n
		s.status.Source.Seen, s.status.Source.Error = u.Version, problem
	}
}

func (s *state) busy(is bool) {
	if status, _ := s.get(); status.Source.Busy != is {
		s.change(func() { s.status.Source.Busy = is })
	}
}

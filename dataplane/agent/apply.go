package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// numbered is an update with its place in the order in which they came.
type numbered struct {
	Update
	n     int
	shown time.Time // since when the kernel has it; zero before
	tries int       // how often it was tried before
}

// follower applies updates one after the other. While one is being applied only
// the newest of those that come waits: a state that another has replaced is no
// state to be in. One that the kernel refused in the middle is tried again, later and
// later, until it is done or another state comes.
type follower struct {
	// apply deals with an update that has a state, and reports whether it is to be
	// tried again; refuse deals with one that has none, lose with lost contact.
	apply  func(context.Context, numbered) (again bool)
	refuse func(numbered)
	lose   func(numbered)
	// busy is told when there is something to do, and when there is not.
	busy func(bool)
	// pause says how long to wait before the next try, after makes a channel of it.
	pause backoff.BackOff
	after func(time.Duration) <-chan time.Time

	last    int // number of the newest update
	waiting *numbered
	tried   numbered  // the one that is applied, or was last
	running chan bool // gets its result; nil: none is applied
	retry   <-chan time.Time
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
		case again := <-f.running:
			f.done(again)
		case <-f.retry:
			f.retry = nil
			f.waiting = new(f.tried)
			f.waiting.tries++
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
	switch {
	case u.Lost != nil:
		f.lose(n)
		return
	case u.Err != nil:
		f.refuse(n)
		return
	}
	f.waiting, f.retry = &n, nil
	f.pause.Reset()
}

// done is called with the result of an Apply.
func (f *follower) done(again bool) {
	f.running = nil
	if again && f.waiting == nil {
		f.retry = f.after(f.pause.NextBackOff())
	}
}

// next begins with the update that waits when no other is being applied.
func (f *follower) next(ctx context.Context) {
	if f.waiting == nil || f.running != nil {
		return
	}
	u, done := *f.waiting, make(chan bool, 1)
	f.tried, f.waiting, f.running = u, nil, done
	go func() { done <- f.apply(ctx, u) }()
}

// Times between the tries of an update that the kernel refuses.
const (
	firstRetry = 100 * time.Millisecond
	mostRetry  = 30 * time.Second
)

func (a *Agent) follow(ctx context.Context, updates <-chan Update) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = firstRetry, mostRetry
	f := follower{
		apply:  a.apply,
		refuse: func(u numbered) { a.refuse(u, u.Err) },
		lose:   func(u numbered) { a.state.lose(u, shortened(u.Lost.Error())) }, // the source says it in the log
		busy:   a.state.busy,
		pause:  pause,
		after:  time.After,
	}
	f.run(ctx, updates)
}

func (a *Agent) apply(ctx context.Context, u numbered) (again bool) {
	err := a.node.Apply(ctx, u.Snapshot)
	var partial dataplane.PartialError
	switch {
	case ctx.Err() != nil:
	case err != nil:
		a.refuse(u, err)
		return errors.As(err, &partial)
	default:
		u.shown = a.node.Shown()
		if !u.Received.IsZero() {
			a.delay.Observe(u.shown.Sub(u.Received).Seconds())
		}
		a.pods.endStale()
		a.warn(u.Policies)
		u.Unused = slices.Concat(u.Unused, a.node.Unserved())
		a.state.succeed(u)
		a.cfg.Log.Debug("applied", "version", u.Version, "services", len(u.Snapshot.Services))
	}
	return false
}

func (a *Agent) refuse(u numbered, err error) {
	words := shortened(remedied(err))
	if u.tries > 0 {
		a.cfg.Log.Error("an update was refused again", "version", u.Version, "tries", u.tries+1, "err", words)
	} else {
		a.cfg.Log.Error("an update was refused, the state before it goes on", "version", u.Version, "err", words)
	}
	a.state.refuse(u, words)
}

// remedied is the text of an error, with the flag that helps where a map is too small.
func remedied(err error) string {
	var full dataplane.CapacityError
	if !errors.As(err, &full) {
		return err.Error()
	}
	flag := map[string]string{"managed": "pods"}[full.Map]
	if flag == "" {
		flag = full.Map
	}
	return fmt.Sprintf("%v (see --max-%s of duomesh-agent; where the engine is pinned it takes --remove first)", err, flag)
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
		if u.tries == 0 {
			s.status.Source.Errors++
		}
	})
}

// lose says that the source cannot be asked; what became of updates stands.
func (s *state) lose(u numbered, why string) {
	s.change(func() {
		s.lost = u.n
		s.status.Source.Lost = why
		s.status.Source.Losses++
	})
}

// see remembers what became of the newest update: one that came while another was
// being applied may be refused before that one is done.
func (s *state) see(u numbered, problem string) {
	if u.tries > 0 {
		s.status.Source.Retries++
	}
	if u.n > s.lost {
		s.status.Source.Lost = ""
	}
	if u.n >= s.newest {
		s.newest = u.n
		s.status.Source.Seen, s.status.Source.Error = u.Version, problem
	}
}

func (s *state) busy(is bool) {
	if status, _ := s.get(); status.Source.Busy != is {
		s.change(func() { s.status.Source.Busy = is })
	}
}

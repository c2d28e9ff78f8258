package follow

import (
	"cmp"
	"slices"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/hops"
)

// state is what a thread does.
type state struct {
	role    int
	running bool
	waiting bool // for a processor
	calls   bool // it is in a system call
}

// change is a moment at which a thread's state becomes another.
type change struct {
	at     int64
	thread uint32
	role   int
	apply  func(*state)
}

func on(s *state)    { s.running, s.waiting = true, false }
func off(s *state)   { s.running, s.waiting = false, false }
func queue(s *state) { s.running, s.waiting = false, true }
func enter(s *state) { s.calls = true }
func leave(s *state) { s.calls = false }

// wake: a thread that runs already is told nothing.
func wake(s *state) {
	if !s.running {
		s.waiting = true
	}
}

// changes are all of them in the order of time.
func changes(events []hops.Event) []change {
	var all []change
	for _, e := range events {
		switch e.Kind {
		case hops.Call:
			all = append(all, change{e.Began, e.Thread, e.Role, enter}, change{e.At, e.Thread, e.Role, leave})
		case hops.Waking:
			all = append(all, change{e.At, e.Thread, e.Role, wake})
		case hops.Switch:
			if e.Role >= 0 {
				to := queue
				if e.Sleeps {
					to = off
				}
				all = append(all, change{e.At, e.Thread, e.Role, to})
			}
			if e.NextRole >= 0 {
				all = append(all, change{e.At, e.Next, e.NextRole, on})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	return all
}

// part is what time goes to.
type part struct {
	role int // -1: nobody
	what string
}

// account divides the time inside the windows among what happened then, nanoseconds.
// Where two threads run at once, each has half of it.
func account(events []hops.Event, windows []window) map[part]float64 {
	spent := map[part]float64{}
	threads := map[uint32]*state{}
	next := 0
	last := int64(0)
	for _, c := range changes(events) {
		for next < len(windows) && windows[next].to <= last {
			next++
		}
		if next < len(windows) {
			share(spent, threads, overlap(windows[next:], last, c.at))
		}
		last = c.at
		t := threads[c.thread]
		if t == nil {
			t = &state{role: c.role}
			threads[c.thread] = t
		}
		c.apply(t)
	}
	return spent
}

// overlap is how much of a span lies in the windows, which are in order.
func overlap(all []window, from, to int64) float64 {
	sum := int64(0)
	for _, w := range all {
		if w.from >= to {
			break
		}
		sum += max(min(w.to, to)-max(w.from, from), 0)
	}
	return float64(sum)
}

func share(spent map[part]float64, threads map[uint32]*state, ns float64) {
	if ns <= 0 {
		return
	}
	running, waiting := 0, false
	for _, t := range threads {
		if t.running {
			running++
		}
		waiting = waiting || t.waiting
	}
	switch {
	case running == 0 && waiting:
		spent[part{-1, result.PartQueue}] += ns
		return
	case running == 0:
		spent[part{-1, result.PartIdle}] += ns
		return
	}
	for _, t := range threads {
		if !t.running {
			continue
		}
		what := result.PartUser
		if t.calls {
			what = result.PartKernel
		}
		spent[part{t.role, what}] += ns / float64(running)
	}
}

package follow

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/hops"
)

// step is a kind of thing that a role does on the way.
type step struct {
	role int
	what string
	back bool // on the way back
}

// The things.
const (
	asks     = "connects"
	takes    = "accepts"
	reads    = "reads"
	writes   = "writes"
	readsIt  = "reads the answer"
	writesIt = "writes the answer"
	hasIt    = "has the answer"
)

// moment is when it happened in one request, and what led to it.
type moment struct{ at, woken, ran int64 }

// path are the steps of one request. The way back begins when the server first writes.
func (w window) path(roles int) map[step]moment {
	all := map[step]moment{}
	answered := w.first(server, 0, func(e hops.Event) bool { return e.Sent })
	for role := range roles {
		if role == client {
			continue
		}
		w.note(all, step{role: role, what: takes}, w.first(role, 0, accepted))
		w.note(all, step{role: role, what: asks}, w.first(role, 0, func(e hops.Event) bool { return e.Number == unix.SYS_CONNECT }))
		in := w.first(role, 0, func(e hops.Event) bool { return e.Read })
		w.note(all, step{role: role, what: reads}, in)
		if in == nil {
			continue
		}
		out := w.first(role, in.At, func(e hops.Event) bool { return e.Sent })
		if role == server {
			w.note(all, step{role: role, what: writesIt, back: true}, out)
			continue
		}
		w.note(all, step{role: role, what: writes}, out)
		if answered == nil {
			continue
		}
		back := w.first(role, answered.Began, func(e hops.Event) bool { return e.Read })
		w.note(all, step{role: role, what: readsIt, back: true}, back)
		if back != nil {
			w.note(all, step{role: role, what: writesIt, back: true}, w.first(role, back.At, func(e hops.Event) bool { return e.Sent }))
		}
	}
	w.note(all, step{role: client, what: hasIt, back: true}, w.last(func(e hops.Event) bool { return e.Read }))
	return all
}

func accepted(e hops.Event) bool {
	return (e.Number == unix.SYS_ACCEPT4 || e.Number == unix.SYS_ACCEPT) && e.Value >= 0
}

// first is the first call of a role that ends after a moment and is meant.
func (w window) first(role int, after int64, meant func(hops.Event) bool) *hops.Event {
	for i, e := range w.events {
		if e.Kind == hops.Call && e.Role == role && e.At > after && meant(e) {
			return &w.events[i]
		}
	}
	return nil
}

// last is the client's last call that is meant.
func (w window) last(meant func(hops.Event) bool) *hops.Event {
	for i := len(w.events) - 1; i >= 0; i-- {
		if e := w.events[i]; e.Kind == hops.Call && e.Role == client && meant(e) {
			return &w.events[i]
		}
	}
	return nil
}

// note puts a step down: a read counts from when it has the bytes, anything else from
// when it begins.
func (w window) note(all map[step]moment, s step, e *hops.Event) {
	if e == nil {
		return
	}
	m := moment{at: e.Began}
	if e.Read {
		m.at = e.At
		m.woken, m.ran = w.roused(e)
	}
	all[s] = m
}

// roused is when the thread of a read was last told to run, and when it did; zero
// where it ran already.
func (w window) roused(read *hops.Event) (woken, ran int64) {
	for _, e := range w.events {
		switch {
		case e.At > read.At:
			return woken, ran
		case e.Kind == hops.Waking && e.Thread == read.Thread:
			woken, ran = e.At, 0
		case e.Kind == hops.Switch && e.Next == read.Thread && woken > 0 && ran == 0:
			ran = e.At
		}
	}
	return woken, ran
}

// usual is the share of requests that must have a step before it is shown.
const usual = 0.5

// steps are those that most requests have, at their medians.
func steps(all []window, names []string) []result.Step {
	seen := map[step][]moment{}
	for _, w := range all {
		for s, m := range w.path(len(names)) {
			rel := moment{at: m.at - w.from}
			if m.woken > 0 && m.ran > 0 {
				rel.woken, rel.ran = m.woken-w.from, m.ran-w.from
			}
			seen[s] = append(seen[s], rel)
		}
	}
	var out []result.Step
	for s, ms := range seen {
		share := float64(len(ms)) / float64(len(all))
		if share < usual {
			continue
		}
		x := result.Step{Role: names[s.role], What: s.what, Seen: share, At: middle(ms, func(m moment) int64 { return m.at })}
		roused := slices.DeleteFunc(slices.Clone(ms), func(m moment) bool { return m.woken == 0 })
		if len(roused)*2 > len(ms) {
			x.Woken = middle(roused, func(m moment) int64 { return m.woken })
			x.Ran = middle(roused, func(m moment) int64 { return m.ran })
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b result.Step) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Role, b.Role), cmp.Compare(a.What, b.What))
	})
	return out
}

// middle is the median of a time, in microseconds.
func middle(ms []moment, of func(moment) int64) float64 {
	all := make([]int64, len(ms))
	for i, m := range ms {
		all[i] = of(m)
	}
	slices.Sort(all)
	return float64(all[len(all)/2]) / 1e3
}

package follow

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/hops"
)

// fewest is how many requests a breakdown is made of at least.
const fewest = 20

// Break says where the time of requests went. Names are those of the roles: the
// client, the server, and what is between them. With connects, a request begins with
// its connection.
func Break(events []hops.Event, names []string, connects bool) (b result.Breakdown, err error) {
	all := windows(events, connects)
	if len(all) < fewest {
		return b, fmt.Errorf("%d requests were seen whole, at least %d are needed", len(all), fewest)
	}
	b.Requests = len(all)
	took := make([]moment, len(all))
	for i, w := range all {
		took[i].at = w.to - w.from
	}
	b.P50 = middle(took, func(m moment) int64 { return m.at })
	b.Path = steps(all, names)
	turns := inTurn(b.Path, names)
	b.Parts = parts(account(events, all), names, turns, len(all))
	b.Work = work(events, all, names)
	slices.SortStableFunc(b.Work, func(x, y result.Work) int {
		return cmp.Compare(slices.Index(turns, x.Role), slices.Index(turns, y.Role))
	})
	b.Hops = passes(all)
	if connects { // setting up a connection passes some of them more than once
		b.Hops = between(b.Path, names)
	}
	return b, nil
}

// inTurn are the names in the order in which they have a request, the client first.
func inTurn(path []result.Step, names []string) []string {
	turns := []string{names[client]}
	for _, s := range path {
		if !slices.Contains(turns, s.Role) {
			turns = append(turns, s.Role)
		}
	}
	for _, n := range names {
		if !slices.Contains(turns, n) {
			turns = append(turns, n)
		}
	}
	return turns
}

// order is that of a table.
var order = []string{result.PartUser, result.PartKernel, result.PartQueue, result.PartIdle}

func parts(spent map[part]float64, names, turns []string, requests int) []result.Part {
	var out []result.Part
	for p, ns := range spent {
		x := result.Part{What: p.what, Micros: ns / 1e3 / float64(requests)}
		if p.role >= 0 {
			x.Role = names[p.role]
		}
		out = append(out, x)
	}
	place := func(p result.Part) int {
		if i := slices.Index(turns, p.Role); i >= 0 {
			return i
		}
		return len(turns)
	}
	slices.SortFunc(out, func(a, b result.Part) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(slices.Index(order, a.What), slices.Index(order, b.What)))
	})
	return out
}

// work counts what every role did between the first request and the last, so that
// what it does between two of them is in it.
func work(events []hops.Event, all []window, names []string) []result.Work {
	out := make([]result.Work, len(names))
	from, to := all[0].from, all[len(all)-1].to
	for _, e := range events {
		if e.At < from || e.At > to || e.Role < 0 || e.Role >= len(out) {
			continue
		}
		w := &out[e.Role]
		switch e.Kind {
		case hops.Call:
			w.Calls++
			if e.Sent {
				w.Writes++
				w.BytesWritten += float64(e.Value)
			}
			if e.Read {
				w.Reads++
				w.BytesRead += float64(e.Value)
			}
		case hops.Switch:
			w.Switches++
		}
	}
	n := float64(len(all))
	for i := range out {
		w := &out[i]
		w.Role = names[i]
		for _, x := range []*float64{&w.Calls, &w.Switches, &w.Reads, &w.Writes, &w.BytesRead, &w.BytesWritten} {
			*x /= n
		}
	}
	return out
}

// passes is how often a process between takes the middle request and gives it on, until
// the server has it.
func passes(all []window) int {
	counts := make([]int, len(all))
	for i, w := range all {
		has := map[int]bool{}
		for _, e := range w.events {
			if e.Kind != hops.Call || e.Role == client {
				continue
			}
			if e.Role == server && e.Read {
				break
			}
			if e.Read {
				has[e.Role] = true
			}
			if e.Sent && has[e.Role] {
				has[e.Role] = false
				counts[i]++
			}
		}
	}
	slices.Sort(counts)
	return counts[len(counts)/2]
}

// between counts the processes that take a request and give it on.
func between(path []result.Step, names []string) int {
	n := 0
	for i, name := range names {
		if i == client || i == server {
			continue
		}
		has := func(what string) bool {
			return slices.ContainsFunc(path, func(s result.Step) bool { return s.Role == name && s.What == what })
		}
		if has(reads) && has(writes) {
			n++
		}
	}
	return n
}

package scenario

import "slices"

// singles is the number of connections of each client pod in a scenario made
// small.
const singles = 4

// atOnce is the number of loads, each a process for each client pod, that an
// emulated machine runs side by side.
const atOnce = 10

// Single makes a scenario small: a few connections of each client pod, one after
// the other. Shares of some connections, and which replica of a waypoint takes them, are
// not judged then, what is changed under
// load is changed between two loads, and a churn is a few changes; everything else
// stays. It is for kernels that are emulated, where thousands would take too long.
func Single(s Scenario) Scenario {
	small := s
	small.Phases = nil
	for _, ph := range s.Phases {
		small.Phases = append(small.Phases, ph.small()...)
	}
	return small
}

// small makes at least two phases of one with a change: few connections would all
// be over before the change is made.
func (ph Phase) small() []Phase {
	before := make([]Load, len(ph.Loads))
	after := make([]Load, len(ph.Loads))
	for i, l := range ph.Loads {
		before[i] = l.small(l.Want)
		after[i] = before[i]
		if l.Then != nil {
			after[i] = l.small(*l.Then)
		}
	}
	phases := chunks(ph.Before, before)
	if len(ph.During) > 0 {
		phases = append(phases, chunks(ph.During, after)...)
	}
	return phases
}

func (l Load) small(want Want) Load {
	l.Connections, l.Workers = singles*len(l.From), 1
	l.Requests = min(l.Requests, singles)
	l.Want, l.Then, l.Interrupted = want, nil, false
	l.Want.Unweighed, l.Want.Replicas = true, nil
	return l
}

// A churn made small is a few changes, and the agents that it ends are ended once.
const (
	smallChanges   = 12
	smallKillEvery = 8
)

func (a Churn) small() Churn {
	if a.Changes = min(a.Changes, smallChanges); a.KillEvery > 0 {
		a.KillEvery = smallKillEvery
	}
	return a
}

// smaller makes what is done small.
func smaller(all []Action) []Action {
	all = slices.Clone(all)
	for i, a := range all {
		if c, is := a.(Churn); is {
			all[i] = c.small()
		}
	}
	return all
}

// chunks makes phases of at most atOnce loads; first is done before the first.
func chunks(first []Action, loads []Load) []Phase {
	var phases []Phase
	for some := range slices.Chunk(loads, atOnce) {
		phases = append(phases, Phase{Loads: some})
	}
	if len(phases) == 0 {
		phases = []Phase{{}}
	}
	phases[0].Before = smaller(first)
	return phases
}

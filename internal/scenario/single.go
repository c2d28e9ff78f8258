package scenario

// singles is the number of connections of each client pod in a scenario made
// small: with an even number, a change in the middle has some on either side.
const singles = 4

// Single makes a scenario small: a few connections of each client pod, one after
// the other. Shares of some connections are not judged then, everything else is.
// It is for kernels that are emulated, where thousands would take too long.
func Single(s Scenario) Scenario {
	small := s
	small.Phases = nil
	for _, ph := range s.Phases {
		loads := make([]Load, len(ph.Loads))
		for i, l := range ph.Loads {
			l.Connections, l.Workers = singles*len(l.From), 1
			l.Want.Unweighed = true
			if l.Then != nil {
				then := *l.Then
				then.Unweighed = true
				l.Then = &then
			}
			loads[i] = l
		}
		ph.Loads = loads
		small.Phases = append(small.Phases, ph)
	}
	return small
}

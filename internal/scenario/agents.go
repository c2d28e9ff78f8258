package scenario

// agentPair is the usual cluster with an agent on each node.
func agentPair() Topology {
	t := pair()
	t.Agents = true
	return t
}

func agentKilled() Scenario {
	load := func(v1, v2 float64) []Load {
		return []Load{{
			From: []string{"client", "client2"}, To: fortio(IPv4), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": v1, "v2": v2}),
		}}
	}
	return Scenario{
		Name:     "agent/killed/under-load",
		Summary:  "the node's agent is killed under load, stays dead, and comes back: every connection goes where it was declared to",
		Topology: agentPair(),
		Objects:  weighted(IPv4, 90, 10),
		Phases: []Phase{
			{Loads: load(.9, .1), During: []Action{KillAgent{"a"}}},
			{Loads: load(.9, .1)},
			{Loads: load(.9, .1), During: []Action{StartAgent{"a"}}},
			{Before: []Action{Apply{weighted(IPv4, 10, 90)}}, Loads: load(.1, .9)},
		},
	}
}

func agentChurn() Scenario {
	then := redirected(map[string]float64{"v1": 1})
	left := weighted(IPv4, 1, 1)
	left.Services[0].Endpoints = left.Services[0].Endpoints[:1]
	return Scenario{
		Name:     "agent/churn-and-kills/100000",
		Summary:  "endpoints come and go 100 times a second while agents are killed: nothing is refused, misrouted or leaked",
		Topology: agentPair(),
		Objects:  weighted(IPv4, 1, 1),
		Phases: []Phase{{
			Loads: []Load{{
				From: []string{"client", "client2"}, To: fortio(IPv4), Connections: 100_000,
				Want: redirected(map[string]float64{"v1": .5, "v2": .5}),
				Then: &then,
			}},
			During: []Action{Churn{
				Between: []Objects{weighted(IPv4, 1, 1), left}, Changes: 400, PerSecond: 100,
				Kill: []string{"a", "b"}, KillEvery: 100,
			}},
		}, {
			// However long the churn took: its end holds.
			Loads: []Load{{From: []string{"client"}, To: fortio(IPv4), Connections: 500, Want: then}},
		}},
	}
}

// datagramChurn is agentChurn for UDP sockets that name the address in each send.
func datagramChurn() Scenario {
	s := agentChurn()
	s.Name = "udp/churn-and-kills/100000"
	s.Summary = "the same for the datagrams of unconnected UDP sockets"
	s.Objects = dns(IPv4, 1, 1)
	left := dns(IPv4, 1, 1)
	left.Services[0].Endpoints = left.Services[0].Endpoints[:1]
	churn := s.Phases[0].During[0].(Churn)
	churn.Between = []Objects{s.Objects, left}
	s.Phases[0].During = []Action{churn}
	then := answered(map[string]float64{"v1": 1})
	load := &s.Phases[0].Loads[0]
	load.To, load.Unconnected, load.Want, load.Then = toDNS(IPv4), true, answered(map[string]float64{"v1": .5, "v2": .5}), &then
	s.Phases[1].Loads = []Load{{From: []string{"client"}, To: toDNS(IPv4), Connections: 500, Unconnected: true, Want: then}}
	return s
}

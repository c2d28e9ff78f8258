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

// churned are the pods that come and go in a churn: two at a time are declared, so
// that a choice a few changes old is seen to be wrong.
var churned = [...]string{"v1", "v2", "v3", "v4", "v5", "v6"}

// churnPods is agentPair with all churned pods.
func churnPods() Topology {
	t := agentPair()
	for i, name := range churned[3:] {
		n := &t.Nodes[i%2]
		n.Pods = append(n.Pods, Pod{Name: name, Serve: []uint16{8080}, ServeUDP: []uint16{8053}})
	}
	return t
}

// turns are the objects of a churn: a service before each two neighbours of churned,
// the first two last.
func turns(service func(endpoints []Endpoint) Objects) []Objects {
	var all []Objects
	for i := range churned {
		all = append(all, service([]Endpoint{
			{Pod: churned[(i+1)%len(churned)], Weight: 1}, {Pod: churned[(i+2)%len(churned)], Weight: 1},
		}))
	}
	return all
}

// churn is a scenario in which objects change under all but the first and the last
// connections. A connection that is made meanwhile is held against what its node had
// at that moment.
func churn(name, summary string, l Load, want func(map[string]float64) Want, service func([]Endpoint) Objects) Scenario {
	first := service([]Endpoint{{Pod: churned[0], Weight: 1}, {Pod: churned[1], Weight: 1}})
	split := want(map[string]float64{churned[0]: .5, churned[1]: .5})
	last := service([]Endpoint{{Pod: churned[2], Weight: 1}})
	then := want(map[string]float64{churned[2]: 1})
	l.From, l.Connections, l.Want, l.Then = []string{"client", "client2"}, 100_000, split, &then
	after := l
	after.From, after.Connections, after.Want, after.Then = []string{"client"}, 500, then, nil
	return Scenario{
		Name: name, Summary: summary, Topology: churnPods(), Objects: first,
		Phases: []Phase{{
			Loads: []Load{l},
			During: []Action{
				Churn{
					Between: turns(service), Changes: 400, PerSecond: 100,
					Kill: []string{"a", "b"}, KillEvery: 150, Through: true,
				},
				Apply{last},
			},
		}, {
			// However long the churn took: its end holds.
			Loads: []Load{after},
		}},
	}
}

func agentChurn() Scenario {
	return churn("agent/churn-and-kills/100000",
		"endpoints come and go 100 times a second while agents are killed: nothing is refused, misrouted or leaked",
		Load{To: fortio(IPv4)}, redirected, func(e []Endpoint) Objects {
			o := weighted(IPv4, 1, 1)
			o.Services[0].Endpoints = e
			return o
		})
}

// datagramChurn is agentChurn for UDP sockets that name the address in each send.
func datagramChurn() Scenario {
	return churn("udp/churn-and-kills/100000",
		"the same for the datagrams of unconnected UDP sockets",
		Load{To: toDNS(IPv4), Unconnected: true}, answered, func(e []Endpoint) Objects {
			o := dns(IPv4, 1, 1)
			o.Services[0].Endpoints = e
			return o
		})
}

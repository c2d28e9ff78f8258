package scenario

// dns is a service of UDP port 53 before the pods' port 8053.
func dns(f Family, v1, v2 uint32) Objects {
	return Objects{Services: []Service{{
		Name: "dns", Family: f,
		Ports:     []Port{{Port: 53, Target: 8053, Protocol: UDP}},
		Endpoints: []Endpoint{{Pod: "v1", Weight: v1}, {Pod: "v2", Weight: v2}},
	}}}
}

func toDNS(f Family) Target { return Target{Service: "dns", Port: 53, Family: f, Protocol: UDP} }

func answered(split map[string]float64) Want {
	return Want{Outcome: Connected, Via: ViaSocket, Split: split, Port: 8053}
}

func udp(name, summary string, unconnected bool, f Family) Scenario {
	service := f
	if f == Mapped {
		service = IPv4
	}
	return Scenario{
		Name: name, Summary: summary, Topology: pair(),
		Objects: dns(service, 90, 10),
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client", "client2"}, To: toDNS(f), Connections: gateConnections, Unconnected: unconnected,
			Want: answered(map[string]float64{"v1": .9, "v2": .1}),
		}}}},
	}
}

// udpHighPort is a service on a port that Linux may give to a client by itself,
// before pods that serve on such a one.
func udpHighPort() Scenario {
	const port, target = 40053, 50053
	s := udp("udp/high-port/90-10", "the same on ports that Linux also gives to clients", true, IPv4)
	s.Objects.Services[0].Ports = []Port{{Port: port, Target: target, Protocol: UDP}}
	for i := range s.Topology.Nodes {
		for j, p := range s.Topology.Nodes[i].Pods {
			if len(p.ServeUDP) > 0 {
				s.Topology.Nodes[i].Pods[j].ServeUDP = []uint16{target}
			}
		}
	}
	load := &s.Phases[0].Loads[0]
	load.To.Port, load.Want.Port = port, target
	return s
}

func udpSticky() Scenario {
	load := func(from string, unconnected bool) Load {
		return Load{
			From: []string{from}, To: toDNS(IPv4), Connections: gateConnections, Datagrams: 5, Unconnected: unconnected,
			Want: answered(map[string]float64{"v1": .5, "v2": .5}),
		}
	}
	return Scenario{
		Name:     "udp/sticky/5",
		Summary:  "the datagrams of one UDP socket all go to one endpoint",
		Topology: pair(),
		Objects:  dns(IPv4, 1, 1),
		Phases:   []Phase{{Loads: []Load{load("client", true), load("client2", false)}}},
	}
}

func udpNoEndpoint() Scenario {
	load := func(f Family, unconnected bool) Load {
		return Load{
			From: []string{"client", "client2"}, To: toDNS(f), Connections: 500, Unconnected: unconnected,
			Want: Want{Outcome: RefusedByMesh},
		}
	}
	objects := dns(Dual, 0, 0)
	objects.Services[0].Endpoints = nil
	return Scenario{
		Name:     "udp/no-endpoints/500",
		Summary:  "a UDP service without endpoints refuses connect and sendto at once, and no packet leaves the pod",
		Topology: pair(),
		Objects:  objects,
		Phases: []Phase{{Loads: []Load{
			load(IPv4, false), load(IPv4, true), load(IPv6, true), load(Mapped, true),
		}}},
	}
}

func udpUndeclaredPort() Scenario {
	return Scenario{
		Name:     "udp/undeclared-port/500",
		Summary:  "a UDP port that a service does not declare is left to the network",
		Topology: pair(),
		Objects:  dns(IPv4, 1, 1),
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client"}, To: Target{Service: "dns", Port: 8053, Family: IPv4, Protocol: UDP}, Connections: 500,
			Want: Want{Outcome: RefusedByPeer},
		}}}},
	}
}

func udpEndpointRemoved() Scenario {
	left := dns(IPv4, 1, 1)
	left.Services[0].Endpoints = left.Services[0].Endpoints[:1]
	then := answered(map[string]float64{"v1": 1})
	return Scenario{
		Name:     "udp/endpoint-removed/under-load",
		Summary:  "an endpoint leaves a UDP service under load: sockets that ask later never meet it",
		Topology: pair(),
		Objects:  dns(IPv4, 1, 1),
		Phases: []Phase{{
			// Connected sockets of an endpoint that leaves are ended: what their
			// application sees is a matter of the moment.
			Loads: []Load{{
				From: []string{"client", "client2"}, To: toDNS(IPv4), Connections: 3 * gateConnections, Unconnected: true,
				Want: answered(map[string]float64{"v1": .5, "v2": .5}),
				Then: &then,
			}},
			During: []Action{Apply{left}},
		}},
	}
}

func udpDNAT() Scenario {
	s := udp("baseline/dnat-udp/90-10", "kube-proxy's kind of rules for UDP: the judge sees the rewrite in packets", true, IPv4)
	s.Topology.Mesh = DNAT
	s.Phases[0].Loads[0].Want.Via = ViaDNAT
	return s
}

package scenario

import "fmt"

// All returns the named scenarios, each run by every world that can express it.
// Every Want is written by hand: none is computed by the product's own model.
func All() []Scenario {
	return []Scenario{
		uniform(),
		split("clusterip/weight/90-10", "one connection in ten goes to v2", IPv4),
		split("clusterip/ipv6/90-10", "the same over IPv6", IPv6),
		split("clusterip/v4-mapped/90-10", "the same from IPv6 sockets that dial IPv4", Mapped),
		dualStack(),
		weightChange(),
		addresses(),
		podIP(),
		hairpin(),
		twoPorts(),
		fiftyPorts(),
		weightLimits(),
		localityFailover(),
		localityFailoverNode(),
		localityFailoverZone(),
		localityStrict(),
		localityScopes(),
		headless(),
		ownTargets(),
		severalAddresses(),
		notReady(),
		oneFamilyEach(),
		noEndpoint(),
		undeclaredPort(),
		endpointRemoved(),
		bystander(),
		enrolAndLeave(),
		agentKilled(),
		agentChurn(),
		dnat(),
		noMesh(),
		udp("udp/connected/90-10", "one connected UDP socket in ten talks to v2", false, IPv4),
		udp("udp/unconnected/90-10", "one unconnected UDP socket in ten talks to v2, and sees its answers come from the service", true, IPv4),
		udp("udp/ipv6/90-10", "the same over IPv6", true, IPv6),
		udp("udp/v4-mapped/90-10", "the same from IPv6 sockets that send to IPv4", true, Mapped),
		udpHighPort(),
		udpSticky(),
		udpNoEndpoint(),
		udpUndeclaredPort(),
		udpEndpointRemoved(),
		datagramChurn(),
		udpDNAT(),
		splitHTTP(),
		l7Weight("l7/weight/90-10", "one request in ten goes to v2, on connections that are kept", IPv4),
		l7Weight("l7/ipv6/90-10", "the same over IPv6", IPv6),
		l7Close(),
		l7ProxyV2(),
		l7Header(),
		l7Uniform(),
		l7ServerFirst(),
		l7WeightChange(),
		l7EndpointRemoved(),
		l7Killed(),
		l7NoReplica(),
		l7Bystander(),
		l7TwoReplicas(),
	}
}

// Find returns the named scenario.
func Find(name string) (Scenario, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return Scenario{}, false
}

// The number of connections of a share gate: enough for a 50/50 share, which
// needs the most.
const gateConnections = 6000

// pair is the usual cluster: clients on node a, one of the two versions of a
// server on each node, and a pod that is not in the mesh.
func pair() Topology {
	return Topology{Mesh: Duomesh, Nodes: []Node{
		{Name: "a", Pods: []Pod{
			{Name: "client", Managed: true},
			{Name: "client2", Managed: true},
			{Name: "bystander"},
			{Name: "v1", Serve: []uint16{8080, 9090}, ServeUDP: []uint16{8053}},
		}},
		{Name: "b", Pods: []Pod{
			{Name: "v2", Serve: []uint16{8080, 9090}, ServeUDP: []uint16{8053}},
			{Name: "v3", Serve: []uint16{8080, 9090}, ServeUDP: []uint16{8053}},
		}},
	}}
}

func weighted(f Family, v1, v2 uint32) Objects {
	return Objects{Services: []Service{{
		Name: "fortio", Family: f,
		Ports:     []Port{{Port: 80, Target: 8080}},
		Endpoints: []Endpoint{{Pod: "v1", Weight: v1}, {Pod: "v2", Weight: v2}},
	}}}
}

func redirected(split map[string]float64) Want {
	return Want{Outcome: Connected, Via: ViaSocket, Split: split, Port: 8080}
}

func fortio(f Family) Target { return Target{Service: "fortio", Port: 80, Family: f} }

func uniform() Scenario {
	third := 1.0 / 3
	return Scenario{
		Name:     "clusterip/uniform/3",
		Summary:  "three endpoints of equal weight share the connections of two clients",
		Topology: pair(),
		Objects: Objects{Services: []Service{{
			Name: "fortio", Family: IPv4, Ports: []Port{{Port: 80, Target: 8080}},
			Endpoints: []Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}, {Pod: "v3", Weight: 1}},
		}}},
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client", "client2"}, To: fortio(IPv4), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": third, "v2": third, "v3": third}),
		}}}},
	}
}

func split(name, summary string, f Family) Scenario {
	service := f
	if f == Mapped {
		service = IPv4
	}
	return Scenario{
		Name: name, Summary: summary, Topology: pair(),
		Objects: weighted(service, 90, 10),
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client", "client2"}, To: fortio(f), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": .9, "v2": .1}),
		}}}},
	}
}

func dualStack() Scenario {
	load := func(f Family, from string) Load {
		return Load{
			From: []string{from}, To: fortio(f), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": .9, "v2": .1}),
		}
	}
	return Scenario{
		Name:     "clusterip/dual-stack/90-10",
		Summary:  "one service with an address of each family, both dialled at once",
		Topology: pair(),
		Objects:  weighted(Dual, 90, 10),
		Phases:   []Phase{{Loads: []Load{load(IPv4, "client"), load(IPv6, "client2")}}},
	}
}

func weightChange() Scenario {
	then := redirected(map[string]float64{"v1": .1, "v2": .9})
	return Scenario{
		Name:     "clusterip/weight-change/90-10-to-10-90",
		Summary:  "the weights change under load; connections asked for later follow the new ones",
		Topology: pair(),
		Objects:  weighted(IPv4, 90, 10),
		Phases: []Phase{{
			Loads: []Load{{
				From: []string{"client", "client2"}, To: fortio(IPv4), Connections: 3 * gateConnections,
				Want: redirected(map[string]float64{"v1": .9, "v2": .1}),
				Then: &then,
			}},
			During: []Action{Apply{weighted(IPv4, 10, 90)}},
		}},
	}
}

func addresses() Scenario {
	return Scenario{
		Name:     "addresses/getpeername-and-source",
		Summary:  "clients on both sides of a node border see the address they asked for; servers see the client's own",
		Topology: pair(),
		Objects:  weighted(Dual, 0, 1),
		Phases: []Phase{{Loads: []Load{
			onlyV2("client", fortio(IPv4)),
			onlyV2("client2", fortio(IPv6)),
			onlyV2("client2", fortio(Mapped)),
		}}},
	}
}

// onlyV2 is a load that v2 must serve alone: an exact gate.
func onlyV2(from string, to Target) Load {
	return Load{
		From: []string{from}, To: to, Connections: 500,
		Want: redirected(map[string]float64{"v2": 1}),
	}
}

func podIP() Scenario {
	load := func(from string, f Family) Load {
		return Load{
			From: []string{from}, To: Target{Pod: "v2", Port: 8080, Family: f}, Connections: 500,
			Want: Want{Outcome: Connected, Via: ViaNone, Split: map[string]float64{"v2": 1}, Port: 8080},
		}
	}
	return Scenario{
		Name:     "pod-ip/direct/500",
		Summary:  "a pod's own address is left alone, for managed and unmanaged callers",
		Topology: pair(),
		Objects:  weighted(Dual, 90, 10),
		Phases:   []Phase{{Loads: []Load{load("client", IPv4), load("client2", IPv6), load("bystander", Mapped)}}},
	}
}

// hairpin has a client that is one of the endpoints of what it asks for.
func hairpin() Scenario {
	t := pair()
	for i := range t.Nodes[0].Pods {
		if p := &t.Nodes[0].Pods[i]; p.Name == "v1" {
			p.Managed = true
		}
	}
	load := func(f Family) Load {
		return Load{
			From: []string{"v1"}, To: fortio(f), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": .5, "v2": .5}),
		}
	}
	return Scenario{
		Name:     "hairpin/50-50",
		Summary:  "a pod is one of the endpoints that it asks for: what goes to itself is on its loopback interface alone",
		Topology: t,
		Objects:  weighted(Dual, 1, 1),
		Phases:   []Phase{{Loads: []Load{load(IPv4), load(IPv6), load(Mapped)}}},
	}
}

func twoPorts() Scenario {
	load := func(from string, port, target uint16) Load {
		return Load{
			From: []string{from}, To: Target{Service: "fortio", Port: port, Family: IPv4}, Connections: gateConnections,
			Want: Want{
				Outcome: Connected, Via: ViaSocket, Port: target,
				Split: map[string]float64{"v1": .5, "v2": .5},
			},
		}
	}
	objects := weighted(IPv4, 1, 1)
	objects.Services[0].Ports = []Port{{Port: 80, Target: 8080}, {Port: 81, Target: 9090}}
	return Scenario{
		Name:     "ports/two-targets/50-50",
		Summary:  "two ports of one service lead to two ports of the same pods",
		Topology: pair(),
		Objects:  objects,
		Phases:   []Phase{{Loads: []Load{load("client", 80, 8080), load("client2", 81, 9090)}}},
	}
}

func fiftyPorts() Scenario {
	const ports, first, target = 50, 1000, 10000
	t := pair()
	service := Service{Name: "wide", Family: IPv4, Endpoints: []Endpoint{{Pod: "wide", Weight: 1}}}
	wide := Pod{Name: "wide"}
	var loads []Load
	for i := uint16(0); i < ports; i++ {
		wide.Serve = append(wide.Serve, target+i)
		service.Ports = append(service.Ports, Port{Port: first + i, Target: target + i})
		loads = append(loads, Load{
			From: []string{"client"}, To: Target{Service: "wide", Port: first + i, Family: IPv4},
			Connections: 20, Workers: 1,
			Want: Want{Outcome: Connected, Via: ViaSocket, Port: target + i, Split: map[string]float64{"wide": 1}},
		})
	}
	t.Nodes[1].Pods = append(t.Nodes[1].Pods, wide)
	return Scenario{
		Name:     fmt.Sprintf("ports/many/%d", ports),
		Summary:  "fifty ports of one service, each with its own target port",
		Topology: t,
		Objects:  Objects{Services: []Service{service}},
		Phases:   []Phase{{Loads: loads}},
	}
}

func noEndpoint() Scenario {
	load := func(f Family) Load {
		return Load{
			From: []string{"client", "client2"}, To: fortio(f), Connections: 500,
			Want: Want{Outcome: RefusedByMesh},
		}
	}
	objects := weighted(Dual, 0, 0)
	objects.Services[0].Endpoints = nil
	return Scenario{
		Name:     "endpoints/none/500",
		Summary:  "a service without endpoints refuses at once, and no packet leaves the pod",
		Topology: pair(),
		Objects:  objects,
		Phases:   []Phase{{Loads: []Load{load(IPv4), load(IPv6), load(Mapped)}}},
	}
}

func undeclaredPort() Scenario {
	return Scenario{
		Name:     "ports/undeclared/500",
		Summary:  "a port that a service does not declare is refused at once",
		Topology: pair(),
		Objects:  weighted(IPv4, 1, 1),
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client"}, To: Target{Service: "fortio", Port: 8080, Family: IPv4}, Connections: 500,
			Want: Want{Outcome: RefusedByMesh},
		}}}},
	}
}

func endpointRemoved() Scenario {
	then := redirected(map[string]float64{"v1": 1})
	left := weighted(IPv4, 1, 1)
	left.Services[0].Endpoints = left.Services[0].Endpoints[:1]
	return Scenario{
		Name:     "endpoints/removed/under-load",
		Summary:  "an endpoint leaves the service under load, then its server stops: nothing is refused",
		Topology: pair(),
		Objects:  weighted(IPv4, 1, 1),
		Phases: []Phase{{
			Loads: []Load{{
				From: []string{"client", "client2"}, To: fortio(IPv4), Connections: 3 * gateConnections,
				Want: redirected(map[string]float64{"v1": .5, "v2": .5}),
				Then: &then,
			}},
			During: []Action{Apply{left}, StopServer{"v2"}},
		}},
	}
}

func bystander() Scenario {
	return Scenario{
		Name:     "managed/bystander/500",
		Summary:  "a pod that is not enrolled is left alone beside one that is",
		Topology: pair(),
		Objects:  weighted(IPv4, 0, 1),
		Phases: []Phase{{Loads: []Load{
			onlyV2("client", fortio(IPv4)),
			{
				From: []string{"bystander"}, To: fortio(IPv4), Connections: 500,
				Want: Want{Outcome: RefusedByPeer},
			},
		}}},
	}
}

func enrolAndLeave() Scenario {
	inside := redirected(map[string]float64{"v2": 1})
	outside := Want{Outcome: RefusedByPeer}
	load := func(first Want, then *Want) []Load {
		return []Load{{
			From: []string{"bystander"}, To: fortio(IPv4), Connections: 12000, Want: first, Then: then,
		}}
	}
	return Scenario{
		Name:     "managed/enrol-and-leave/12000",
		Summary:  "a running pod is enrolled and leaves again, under load and at rest",
		Topology: pair(),
		Objects:  weighted(IPv4, 0, 1),
		Phases: []Phase{
			{Loads: load(outside, &inside), During: []Action{Enrol{"bystander"}}},
			{Loads: load(inside, &outside), During: []Action{Leave{"bystander"}}},
			{Before: []Action{Enrol{"bystander"}}, Loads: load(inside, nil)},
		},
	}
}

func dnat() Scenario {
	s := split("baseline/dnat/90-10", "rules as kube-proxy writes them: the judge sees the rewrite in packets, not in the socket", IPv4)
	s.Topology.Mesh = DNAT
	s.Phases[0].Loads[0].Want.Via = ViaDNAT
	return s
}

func noMesh() Scenario {
	s := split("baseline/no-mesh/500", "without a mesh nobody answers for a service address", IPv4)
	s.Topology.Mesh = NoMesh
	load := &s.Phases[0].Loads[0]
	load.Connections = 500
	load.Want = Want{Outcome: RefusedByPeer}
	return s
}

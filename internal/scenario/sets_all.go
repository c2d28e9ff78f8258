package scenario

import "math"

// The scenarios of which endpoints a service chooses: by weight, health, port, family and
// address; by place they are in locality.go.

// few is the number of connections of a load that one server must serve alone.
const few = 200

// answering are objects of one service for TCP and UDP, before the ports of the usual
// servers.
func answering(name string, f Family, endpoints ...Endpoint) Service {
	return Service{
		Name: name, Family: f, Endpoints: endpoints,
		Ports: []Port{{Port: 80, Target: 8080}, {Port: 53, Target: 8053, Protocol: UDP}},
	}
}

// each are endpoints of equal weight.
func each(pods ...string) []Endpoint {
	var all []Endpoint
	for _, p := range pods {
		all = append(all, Endpoint{Pod: p, Weight: 1})
	}
	return all
}

// alone are loads of both protocols from one pod to a service of answering, which one
// server must serve alone.
func alone(from, service string, f Family, server string) []Load {
	only := map[string]float64{server: 1}
	return []Load{
		{From: []string{from}, To: Target{Service: service, Port: 80, Family: f}, Connections: few, Want: redirected(only)},
		{
			From: []string{from}, To: Target{Service: service, Port: 53, Family: f, Protocol: UDP}, Connections: few, Unconnected: true,
			Want: answered(only),
		},
	}
}

// nobody are the same from the client, by IPv4, where the mesh must refuse.
func nobody(service string) []Load {
	loads := alone("client", service, IPv4, "")
	for i := range loads {
		loads[i].Want = Want{Outcome: RefusedByMesh}
	}
	return loads
}

// shared is a load whose connections servers must share.
func shared(from, service string, f Family, split map[string]float64) Load {
	return Load{
		From: []string{from}, To: Target{Service: service, Port: 80, Family: f}, Connections: gateConnections,
		Want: redirected(split),
	}
}

func weightLimits() Scenario {
	const most = math.MaxUint32
	phase := func(v1, v2, v3 uint32, connections int, want Want) Phase {
		o := Objects{Services: []Service{answering("fortio", IPv4,
			Endpoint{Pod: "v1", Weight: v1}, Endpoint{Pod: "v2", Weight: v2}, Endpoint{Pod: "v3", Weight: v3})}}
		load := shared("client", "fortio", IPv4, nil)
		load.Connections, load.Want = connections, want
		return Phase{Before: []Action{Apply{o}}, Loads: []Load{load}}
	}
	one := 1.0 / (1 + float64(most)) // the share of weight 1 beside the largest
	return Scenario{
		Name:     "clusterip/weight/0-and-max",
		Summary:  "a weight of 0 is never chosen; the largest weight has the share that it says, beside another as large, a ninth of it and 1",
		Topology: pair(),
		Phases: []Phase{
			phase(0, most, most, gateConnections, redirected(map[string]float64{"v2": .5, "v3": .5})),
			phase(most, most/9, 0, MinConnections, redirected(map[string]float64{"v1": .9, "v2": .1})),
			phase(most, 1, 0, MinConnections, redirected(map[string]float64{"v1": 1 - one, "v2": one})),
			phase(0, 0, 0, few, Want{Outcome: RefusedByMesh}),
		},
	}
}

func headless() Scenario {
	direct := func(from, pod string, f Family, p Protocol) Load {
		l := Load{
			From: []string{from}, To: Target{Pod: pod, Port: 8080, Family: f, Protocol: p}, Connections: few,
			Want: Want{Outcome: Connected, Via: ViaNone, Split: map[string]float64{pod: 1}, Port: 8080},
		}
		if p == UDP {
			l.To.Port, l.Want.Port = 8053, 8053
		}
		return l
	}
	pods := answering("pods", Dual, each("v1", "v2")...)
	pods.Headless = true
	return Scenario{
		Name:     "headless/direct/200",
		Summary:  "the pods of a service without an address are asked for by their own, and left alone; a service with one before the same pods works beside it",
		Topology: pair(),
		Objects:  Objects{Services: []Service{pods, answering("fortio", IPv4, each("v2")...)}},
		Phases: []Phase{{Loads: append([]Load{
			direct("client", "v1", IPv4, TCP), direct("client", "v2", IPv6, TCP), direct("client2", "v2", Mapped, TCP),
			direct("client2", "v1", IPv4, UDP), direct("client2", "v2", IPv6, UDP), direct("bystander", "v2", IPv4, TCP),
		}, alone("client", "fortio", IPv4, "v2")...)}},
	}
}

func ownTargets() Scenario {
	t := pair()
	for pod, port := range map[*Pod]uint16{&t.Nodes[0].Pods[3]: 8080, &t.Nodes[1].Pods[0]: 9090} {
		pod.Ports = map[string]uint16{"web": port}
	}
	named := Service{Name: "named", Family: IPv4, Ports: []Port{{Port: 80, TargetName: "web"}}, Endpoints: each("v1", "v2", "v3")}
	own := Service{Name: "own", Family: IPv4, Ports: []Port{{Port: 80, Target: 8080}}, Endpoints: each("v2", "v3")}
	own.Endpoints[0].Ports = map[uint16]uint16{80: 9090}
	load := func(from, service string, split map[string]float64) Load {
		l := shared(from, service, IPv4, split)
		l.Want.Ports = map[string]uint16{"v2": 9090}
		return l
	}
	return Scenario{
		Name:     "ports/own-targets/50-50",
		Summary:  "a target port by name is each pod's own, and who has none is left out; a pod's own number wins over the service's",
		Topology: t,
		Objects:  Objects{Services: []Service{named, own}},
		Phases: []Phase{{Loads: []Load{
			load("client", "named", map[string]float64{"v1": .5, "v2": .5}),
			load("client2", "own", map[string]float64{"v2": .5, "v3": .5}),
		}}},
	}
}

func severalAddresses() Scenario {
	t := pair()
	v1 := &t.Nodes[0].Pods[3]
	v1.Addresses = 2
	byName := answering("by-name", Dual, each("v1", "v2")...)
	byName.Endpoints[0].ByName = true
	second := AddressOf("v1", 2)
	direct := func(f Family) Load {
		return Load{
			From: []string{"client2"}, To: Target{Pod: second, Port: 8080, Family: f}, Connections: few,
			Want: Want{Outcome: Connected, Via: ViaNone, Split: map[string]float64{second: 1}, Port: 8080},
		}
	}
	loads := append(alone("client", "fortio", IPv4, "v1"), alone("client", "fortio", IPv6, "v1")...)
	loads = append(loads, direct(IPv4), direct(IPv6),
		shared("client", "by-name", IPv4, map[string]float64{"v1": .25, second: .25, "v2": .5}))
	return Scenario{
		Name:     "addresses/several/25-25-50",
		Summary:  "of a pod with several addresses the first of the family is chosen; of one that is known by name all are, and share its weight; each is left alone when it is asked for itself",
		Topology: t,
		Objects:  Objects{Services: []Service{answering("fortio", Dual, each("v1")...), byName}},
		Phases:   []Phase{{Loads: loads}},
	}
}

// health is a service whose pods must be ready, and one that publishes others, too.
func health(unready ...string) Objects {
	published := answering("published", IPv4, each("v1")...)
	published.PublishNotReady = true
	return Objects{
		Services: []Service{answering("fortio", IPv4, each("v1", "v2")...), published},
		Unready:  unready,
	}
}

func notReady() Scenario {
	both := func(loads []Load) []Load { return append(loads, alone("client2", "published", IPv4, "v1")...) }
	then := redirected(map[string]float64{"v1": 1})
	change := Load{
		From: []string{"client", "client2"}, To: fortio(IPv4), Connections: 10 * few,
		Want: redirected(map[string]float64{"v2": 1}), Then: &then,
	}
	return Scenario{
		Name:     "endpoints/not-ready/200",
		Summary:  "a pod that is not ready is not chosen, but by a service that publishes it; with none ready the mesh refuses; health changes under load",
		Topology: pair(), Objects: health("v1"),
		Phases: []Phase{
			{Loads: both(alone("client", "fortio", IPv4, "v2"))},
			{Before: []Action{Apply{health("v1", "v2")}}, Loads: both(nobody("fortio"))},
			{Before: []Action{Apply{health("v1")}}, Loads: []Load{change}, During: []Action{Apply{health("v2")}}},
		},
	}
}

func oneFamilyEach() Scenario {
	t := pair()
	t.Nodes[0].Pods[3].Family, t.Nodes[1].Pods[0].Family = IPv4, IPv6 // v1, v2
	objects := func(pods ...string) Objects {
		return Objects{Services: []Service{answering("fortio", Dual, each(pods...)...)}}
	}
	return Scenario{
		Name:     "clusterip/one-family-each/50-50",
		Summary:  "of a service of both families each connection goes to an endpoint that has its family; without one it is refused",
		Topology: t, Objects: objects("v1", "v2", "v3"),
		Phases: []Phase{
			{Loads: []Load{
				shared("client", "fortio", IPv4, map[string]float64{"v1": .5, "v3": .5}),
				shared("client2", "fortio", IPv6, map[string]float64{"v2": .5, "v3": .5}),
			}},
			{
				Before: []Action{Apply{objects("v2")}},
				Loads:  append(nobody("fortio"), alone("client2", "fortio", IPv6, "v2")...),
			},
		},
	}
}

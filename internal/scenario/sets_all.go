package scenario

import (
	"math"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// The scenarios of which endpoints a service chooses: by weight, place, health, port,
// family and address.

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

// The servers of places, by how near they are to the client.
const (
	onSameNode    = "same-node"
	inSameSubzone = "same-subzone"
	inSameZone    = "same-zone"
	inSameZone2   = "same-zone2"
	inSameRegion  = "same-region"
	elsewhere     = "elsewhere"
	otherNetwork  = "other-network"
)

// places is a cluster with a server in every distance from the client.
func places() Topology {
	server := func(name string) Pod {
		return Pod{Name: name, Serve: []uint16{8080}, ServeUDP: []uint16{8053}}
	}
	return Topology{Mesh: Duomesh, Nodes: []Node{
		{Name: "a", Place: Place{Region: "r1", Zone: "z1", Subzone: "s1"}, Pods: []Pod{{Name: "client", Managed: true}, server(onSameNode)}},
		{Name: "b", Place: Place{Region: "r1", Zone: "z1", Subzone: "s1"}, Pods: []Pod{server(inSameSubzone)}},
		{Name: "c", Place: Place{Region: "r1", Zone: "z1", Subzone: "s2"}, Pods: []Pod{server(inSameZone), server(inSameZone2)}},
		// The same names in another zone and region are other places.
		{Name: "d", Place: Place{Region: "r1", Zone: "z2", Subzone: "s1"}, Pods: []Pod{server(inSameRegion)}},
		{Name: "e", Place: Place{Region: "r2", Zone: "z1", Subzone: "s1"}, Pods: []Pod{server(elsewhere)}},
	}}
}

// allPlaces is a service before every server of places that goes on to the next
// nearest ones.
func allPlaces(unready ...string) Objects {
	s := answering("fortio", IPv4, each(elsewhere, inSameRegion, inSameZone, inSameZone2, inSameSubzone, onSameNode)...)
	s.Balance = Balance{
		Mode:   intent.Failover,
		Prefer: []intent.Scope{intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone, intent.ScopeSubzone, intent.ScopeNode},
	}
	return Objects{Services: []Service{s}, Unready: unready}
}

func localityFailover() Scenario {
	level := func(loads []Load, unready ...string) Phase {
		return Phase{Before: []Action{Apply{allPlaces(unready...)}}, Loads: loads}
	}
	client := func(server string) []Load { return alone("client", "fortio", IPv4, server) }
	back := redirected(map[string]float64{onSameNode: 1})
	returns := Load{
		From: []string{"client"}, To: fortio(IPv4), Connections: 10 * few,
		Want: redirected(map[string]float64{elsewhere: 1}), Then: &back,
	}
	return Scenario{
		Name:     "locality/failover/levels",
		Summary:  "the nearest endpoints that are ready are chosen: those of the node, subzone, zone, region, then all; and the nearest again when they come back under load",
		Topology: places(), Objects: allPlaces(),
		Phases: []Phase{
			level(client(onSameNode)),
			level(client(inSameSubzone), onSameNode),
			level([]Load{shared("client", "fortio", IPv4, map[string]float64{inSameZone: .5, inSameZone2: .5})}, onSameNode, inSameSubzone),
			level(client(inSameRegion), onSameNode, inSameSubzone, inSameZone, inSameZone2),
			{
				Before: []Action{Apply{allPlaces(onSameNode, inSameSubzone, inSameZone, inSameZone2, inSameRegion)}},
				Loads:  []Load{returns}, During: []Action{Apply{allPlaces()}},
			},
			level(nobody("fortio"), onSameNode, inSameSubzone, inSameZone, inSameZone2, inSameRegion, elsewhere),
		},
	}
}

// nearNode is a service whose callers are sent to their own node, or where nobody is ready
// there to another.
func nearNode(unready ...string) Objects {
	o := onNode(unready...)
	o.Services[0].Balance = allPlaces().Services[0].Balance
	return o
}

func localityFailoverNode() Scenario {
	s := localityStrict()
	client3 := func() []Load { return alone("client3", "fortio", IPv6, "v2") }
	back := redirected(map[string]float64{"v1": 1})
	returns := Load{
		From: []string{"client"}, To: fortio(IPv4), Connections: 10 * few,
		Want: redirected(map[string]float64{"v2": 1}), Then: &back,
	}
	s.Name = "locality/failover/node"
	s.Summary = "callers are sent to the endpoint of their own node, where that is not ready to the other's, and back to their own under load"
	s.Objects = nearNode()
	s.Phases = []Phase{
		{Loads: append(alone("client", "fortio", IPv4, "v1"), client3()...)},
		{Before: []Action{Apply{nearNode("v1")}}, Loads: append(alone("client", "fortio", IPv4, "v2"), client3()...)},
		{Loads: []Load{returns}, During: []Action{Apply{nearNode()}}},
		{Before: []Action{Apply{nearNode("v1", "v2")}}, Loads: nobody("fortio")},
	}
	return s
}

// zoned is a service whose callers are sent into their own zone, or where nobody is ready
// there into another.
func zoned(unready ...string) Objects {
	s := answering("fortio", Dual, each("near", "near2", "far")...)
	s.Balance = Balance{Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone}}
	return Objects{Services: []Service{s}, Unready: unready}
}

func localityFailoverZone() Scenario {
	server := func(name string) Pod { return Pod{Name: name, Serve: []uint16{8080}, ServeUDP: []uint16{8053}} }
	other := func() []Load { return alone("client2", "fortio", IPv6, "far") }
	back := redirected(map[string]float64{"near": 1})
	returns := Load{
		From: []string{"client"}, To: fortio(IPv4), Connections: 10 * few,
		Want: redirected(map[string]float64{"far": 1}), Then: &back,
	}
	return Scenario{
		Name:    "locality/failover/zone",
		Summary: "callers are sent to the endpoints of their own zone, where none of them is ready to the other's, and back to their own under load",
		Topology: Topology{Mesh: Duomesh, Nodes: []Node{
			{Name: "a", Place: Place{Region: "r1", Zone: "z1"}, Pods: []Pod{{Name: "client", Managed: true}, server("near")}},
			{Name: "b", Place: Place{Region: "r1", Zone: "z2"}, Pods: []Pod{{Name: "client2", Managed: true}, server("far")}},
			{Name: "c", Place: Place{Region: "r1", Zone: "z1"}, Pods: []Pod{server("near2")}}, // as near as the caller's own node
		}},
		Objects: zoned(),
		Phases: []Phase{
			{Loads: append(other(), shared("client", "fortio", IPv4, map[string]float64{"near": .5, "near2": .5}))},
			{Before: []Action{Apply{zoned("near")}}, Loads: append(alone("client", "fortio", IPv4, "near2"), other()...)},
			{Before: []Action{Apply{zoned("near", "near2")}}, Loads: append(alone("client", "fortio", IPv4, "far"), other()...)},
			{Loads: []Load{returns}, During: []Action{Apply{zoned("near2")}}},
			{Before: []Action{Apply{zoned("near", "near2", "far")}}, Loads: nobody("fortio")},
		},
	}
}

// onNode is a service whose callers are sent to their own node or nowhere.
func onNode(unready ...string) Objects {
	s := answering("fortio", Dual, each("v1", "v2")...)
	s.Balance = Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}}
	return Objects{Services: []Service{s}, Unready: unready}
}

func localityStrict() Scenario {
	t := pair()
	t.Nodes[1].Pods = append(t.Nodes[1].Pods, Pod{Name: "client3", Managed: true})
	return Scenario{
		Name:     "locality/strict/node",
		Summary:  "callers are sent to the endpoint of their own node, and refused where that is not ready",
		Topology: t, Objects: onNode(),
		Phases: []Phase{
			{Loads: append(alone("client", "fortio", IPv4, "v1"), alone("client3", "fortio", IPv6, "v2")...)},
			{
				Before: []Action{Apply{onNode("v1")}},
				Loads:  append(nobody("fortio"), alone("client3", "fortio", IPv6, "v2")...),
			},
		},
	}
}

// strict is a service of one endpoint where the caller is, as far as its policy asks,
// and of others that are not.
type strict struct {
	name   string
	prefer []intent.Scope
	match  string
	others []string
}

// stricts are for the client of places, with clusters and another network.
func stricts() []strict {
	const region, zone, subzone = intent.ScopeRegion, intent.ScopeZone, intent.ScopeSubzone
	return []strict{
		{"node", []intent.Scope{intent.ScopeNode}, onSameNode, []string{inSameSubzone, inSameZone}},
		{"subzone", []intent.Scope{region, zone, subzone}, inSameSubzone, []string{inSameZone, inSameRegion, elsewhere}},
		{"zone", []intent.Scope{region, zone}, inSameZone, []string{inSameRegion, elsewhere}},
		{"region", []intent.Scope{region}, inSameRegion, []string{elsewhere}},
		{"cluster", []intent.Scope{intent.ScopeCluster}, inSameRegion, []string{elsewhere}},
		{"network", []intent.Scope{intent.ScopeNetwork}, elsewhere, []string{otherNetwork}},
		// Whatever the policy: what cannot be reached is not chosen.
		{"any", nil, onSameNode, []string{otherNetwork}},
	}
}

// strictly are their services, with or without the endpoints that match.
func strictly(matching bool) Objects {
	var all Objects
	for _, s := range stricts() {
		names := s.others
		if matching {
			names = append([]string{s.match}, names...)
		}
		svc := answering(s.name, IPv4, each(names...)...)
		if len(s.prefer) > 0 {
			svc.Balance = Balance{Mode: intent.Strict, Prefer: s.prefer}
		}
		all.Services = append(all.Services, svc)
	}
	return all
}

func localityScopes() Scenario {
	t := places()
	for i := range t.Nodes {
		t.Nodes[i].Place.Cluster = "c1"
	}
	t.Nodes[4].Place.Cluster = "c2"
	t.Nodes = append(t.Nodes, Node{
		Name: "f", Place: Place{Region: "r1", Zone: "z1", Subzone: "s1", Network: "n2", Cluster: "c1"},
		Pods: []Pod{{Name: otherNetwork, Serve: []uint16{8080}, ServeUDP: []uint16{8053}}},
	})
	var there, none []Load
	for _, s := range stricts() {
		there = append(there, alone("client", s.name, IPv4, s.match)...)
		none = append(none, nobody(s.name)...)
	}
	return Scenario{
		Name:     "locality/strict/scopes",
		Summary:  "strict by node, subzone, zone, region, cluster and network: the one endpoint that matches, else refused; another network is never reached",
		Topology: t, Objects: strictly(true),
		Phases: []Phase{{Loads: there}, {Before: []Action{Apply{strictly(false)}}, Loads: none}},
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

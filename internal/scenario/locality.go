package scenario

import "github.com/duomesh/duomesh/dataplane/intent"

// The scenarios of which endpoints a service chooses by where they are.

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

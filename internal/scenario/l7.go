package scenario

// l7pair is the usual cluster with a waypoint on the other node.
func l7pair() Topology {
	server := func(name string) Pod { return Pod{Name: name, Serve: []uint16{8080}, ServeFirst: []uint16{9000}} }
	return Topology{Mesh: Duomesh, Nodes: []Node{
		{Name: "a", Pods: []Pod{
			{Name: "client", Managed: true},
			{Name: "client2", Managed: true},
			{Name: "bystander"},
			server("v1"),
		}},
		{Name: "b", Pods: []Pod{server("v2"), {Name: "waypoint", Waypoint: true}}},
	}}
}

// routed is a service whose requests its waypoint splits between two versions by weight,
// but for those with a header.
func routed(f Family, v1, v2 uint32) Objects {
	version := func(name string) Service {
		return Service{
			Name: "echo-" + name, Family: f, Ports: []Port{{Port: 80, Target: 8080, Name: "http"}},
			Endpoints: []Endpoint{{Pod: name, Weight: 1}},
		}
	}
	return Objects{Services: []Service{
		{
			Name: "echo", Family: f, Waypoint: "waypoint",
			Ports:     []Port{{Port: 80, Target: 8080, Name: "http"}, {Port: 9000, Target: 9000, Name: "tcp"}},
			Endpoints: []Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}},
			Routes: []Route{
				{Header: "x-canary", Exact: "yes", Backends: []Backend{{"echo-v2", 80, 1}}},
				{Backends: []Backend{{"echo-v1", 80, v1}, {"echo-v2", 80, v2}}},
			},
		},
		version("v1"), version("v2"),
	}}
}

func echo(port uint16, f Family) Target { return Target{Service: "echo", Port: port, Family: f} }

func passed(port uint16, split map[string]float64) Want {
	return Want{Outcome: Connected, Via: ViaWaypoint, Waypoint: "waypoint", Split: split, Port: port}
}

// kept is a few connections that make many requests each.
func kept(f Family, split map[string]float64) Load {
	return Load{
		From: []string{"client", "client2"}, To: echo(80, f), Connections: 8, Requests: gateConnections / 8,
		Want: passed(8080, split),
	}
}

func l7Weight(name, summary string, f Family) Scenario {
	return Scenario{
		Name: name, Summary: summary, Topology: l7pair(), Objects: routed(f, 90, 10),
		Phases: []Phase{{Loads: []Load{kept(f, map[string]float64{"v1": .9, "v2": .1})}}},
	}
}

// unrouted is the same service without its waypoint and its rules.
func unrouted(f Family) Objects {
	o := routed(f, 1, 1)
	o.Services[0].Routes, o.Services[0].Waypoint = nil, ""
	return o
}

// splitHTTP is the whole of a split: by request, by connection, and without a waypoint.
func splitHTTP() Scenario {
	share := map[string]float64{"v1": .9, "v2": .1}
	apart := kept(IPv4, share)
	apart.Connections, apart.Requests, apart.Close = MinConnections, 1, true
	return Scenario{
		Name:     "split/http/90-10",
		Summary:  "one request in ten goes to v2, on kept connections and on such of one request; without the waypoint it is one in two",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{
			{Loads: []Load{kept(IPv4, share)}},
			{Loads: []Load{apart}},
			{Before: []Action{Apply{unrouted(IPv4)}}, Loads: []Load{{
				From: []string{"client", "client2"}, To: echo(80, IPv4), Connections: gateConnections,
				Want: redirected(map[string]float64{"v1": .5, "v2": .5}),
			}}},
		},
	}
}

func l7Close() Scenario {
	load := kept(IPv4, map[string]float64{"v1": .9, "v2": .1})
	load.Connections, load.Requests, load.Close = MinConnections, 1, true
	return Scenario{
		Name:     "l7/connection-close/90-10",
		Summary:  "the same where each request closes its connection: no answer is lost",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{{Loads: []Load{load}}},
	}
}

func l7ProxyV2() Scenario {
	objects := routed(Dual, 90, 10)
	objects.Waypoints = []Waypoint{{Name: "proxied", Pods: []string{"waypoint"}, Codec: ProxyV2}}
	objects.Services[0].Waypoint = "proxied"
	load := func(f Family) Load {
		l := kept(f, map[string]float64{"v1": .9, "v2": .1})
		l.Want.Waypoint = "proxied"
		return l
	}
	return Scenario{
		Name:     "l7/proxy-v2/90-10",
		Summary:  "one request in ten goes to v2 where the waypoint is told by a PROXY header, over both families",
		Topology: l7pair(), Objects: objects,
		Phases: []Phase{{Loads: []Load{load(IPv4), load(IPv6)}}},
	}
}

func l7Header() Scenario {
	load := kept(IPv4, map[string]float64{"v2": 1})
	load.Connections, load.Requests, load.Headers = 4, 50, map[string]string{"x-canary": "yes"}
	return Scenario{
		Name:     "l7/header/200",
		Summary:  "requests with a header all go to v2, whatever the weights",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{{Loads: []Load{load}}},
	}
}

func l7Uniform() Scenario {
	return Scenario{
		Name:     "l7/no-waypoint/50-50",
		Summary:  "the same service without its waypoint: connections are shared evenly, and none passes the waypoint",
		Topology: l7pair(), Objects: unrouted(IPv4),
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client", "client2"}, To: echo(80, IPv4), Connections: gateConnections,
			Want: redirected(map[string]float64{"v1": .5, "v2": .5}),
		}}}},
	}
}

func l7ServerFirst() Scenario {
	objects := routed(IPv4, 90, 10)
	objects.Services[0].Endpoints = objects.Services[0].Endpoints[:1]
	return Scenario{
		Name:     "l7/server-first/500",
		Summary:  "servers that speak first are heard through the waypoint",
		Topology: l7pair(), Objects: objects,
		Phases: []Phase{{Loads: []Load{{
			From: []string{"client", "client2"}, To: echo(9000, IPv4), Connections: 500, ServerFirst: true,
			Want: passed(9000, map[string]float64{"v1": 1}),
		}}}},
	}
}

func l7WeightChange() Scenario {
	load := kept(IPv4, map[string]float64{"v1": .9, "v2": .1})
	load.Requests = 3 * gateConnections / 8
	then := passed(8080, map[string]float64{"v1": .1, "v2": .9})
	load.Then = &then
	return Scenario{
		Name:     "l7/weight-change/under-load",
		Summary:  "weights change under load: every open connection follows, none is closed, no request fails",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{{Loads: []Load{load}, During: []Action{Apply{routed(IPv4, 10, 90)}}}},
	}
}

func l7EndpointRemoved() Scenario {
	objects := routed(IPv4, 1, 1)
	objects.Services[0].Routes = nil
	left := routed(IPv4, 1, 1)
	left.Services[0].Routes = nil
	left.Services[0].Endpoints = left.Services[0].Endpoints[:1]
	load := kept(IPv4, map[string]float64{"v1": .5, "v2": .5})
	load.Want.Unweighed = true
	load.Requests = 4 * gateConnections / 8
	then := passed(8080, map[string]float64{"v1": 1})
	load.Then = &then
	return Scenario{
		Name:     "l7/endpoint-removed/under-load",
		Summary:  "an endpoint leaves under load, then its server stops: no request fails, and none reaches it any more",
		Topology: l7pair(), Objects: objects,
		Phases: []Phase{{Loads: []Load{load}, During: []Action{Apply{left}, StopServer{"v2"}}}},
	}
}

func l7Killed() Scenario {
	load := kept(IPv4, map[string]float64{"v1": .9, "v2": .1})
	load.Connections, load.Requests = 3*gateConnections/20, 20
	load.Then, load.Interrupted = &load.Want, true
	return Scenario{
		Name:     "l7/waypoint-killed/under-load",
		Summary:  "the waypoint is killed under load and comes back: connections fail only while it is gone",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{{Loads: []Load{load}, During: []Action{KillWaypoint{"waypoint"}, StartWaypoint{"waypoint"}}}},
	}
}

func l7NoReplica() Scenario {
	objects := routed(Dual, 90, 10)
	objects.Waypoints = []Waypoint{{Name: "nobody"}}
	objects.Services[0].Waypoint = "nobody"
	load := func(f Family, port uint16) Load {
		return Load{
			From: []string{"client", "client2"}, To: echo(port, f), Connections: 500,
			Want: Want{Outcome: RefusedByMesh},
		}
	}
	return Scenario{
		Name:     "l7/no-replica/500",
		Summary:  "a service whose waypoint has no replica refuses at once: never around it",
		Topology: l7pair(), Objects: objects,
		Phases: []Phase{{Loads: []Load{load(IPv4, 80), load(IPv6, 80), load(IPv4, 9000)}}},
	}
}

func l7Bystander() Scenario {
	load := kept(IPv4, map[string]float64{"v1": .9, "v2": .1})
	return Scenario{
		Name:     "l7/bystander/500",
		Summary:  "a pod that is not enrolled is left alone beside those whose connections pass the waypoint",
		Topology: l7pair(), Objects: routed(IPv4, 90, 10),
		Phases: []Phase{{Loads: []Load{load, {
			From: []string{"bystander"}, To: echo(80, IPv4), Connections: 500, Want: Want{Outcome: RefusedByPeer},
		}}}},
	}
}

func l7TwoReplicas() Scenario {
	t := l7pair()
	t.Nodes[0].Pods = append(t.Nodes[0].Pods, Pod{Name: "waypoint2", Waypoint: true})
	t.Nodes[1].Pods = append(t.Nodes[1].Pods, Pod{Name: "client3", Managed: true})
	objects := routed(IPv4, 90, 10)
	objects.Waypoints = []Waypoint{{Name: "pair", Pods: []string{"waypoint", "waypoint2"}}}
	objects.Services[0].Waypoint = "pair"
	load := kept(IPv4, map[string]float64{"v1": .9, "v2": .1})
	// One on each node: the near replica may be all that a caller is sent to.
	load.From, load.Connections, load.Requests = []string{"client", "client3"}, 600, gateConnections/600
	load.Want.Waypoint, load.Want.Replicas = "pair", objects.Waypoints[0].Pods
	return Scenario{
		Name:     "l7/two-replicas/90-10",
		Summary:  "two replicas of one waypoint, each on the node of a client, take the connections, and each takes some",
		Topology: t, Objects: objects,
		Phases: []Phase{{Loads: []Load{load}}},
	}
}

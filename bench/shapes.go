package bench

import (
	"fmt"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/scenario"
)

// shape says how a variant's cluster differs from the others'.
type shape struct {
	mesh scenario.Mesh
	via  scenario.Via
	// services is the number of services, 0 for a client that asks for the pod.
	services int
	// many: there are other services beside it, for short connections to several.
	many bool
	// tunnelled: an Envoy stands between two tunnels of node proxies.
	tunnelled bool
}

var shapes = map[plan.Variant]shape{
	plan.Direct:   {mesh: scenario.NoMesh, via: scenario.ViaNone},
	plan.DirectAA: {mesh: scenario.NoMesh, via: scenario.ViaNone},
	plan.DNAT:     {mesh: scenario.DNAT, via: scenario.ViaDNAT, services: 1},
	plan.DNAT1000: {mesh: scenario.DNAT, via: scenario.ViaDNAT, services: 1000},
	plan.L4:       {mesh: scenario.Duomesh, via: scenario.ViaSocket, services: 1},
	// The client of envoy-direct is not in the mesh: it dials the Envoy.
	plan.L7:          {mesh: scenario.Duomesh, via: scenario.ViaWaypoint, services: 1},
	plan.EnvoyDirect: {mesh: scenario.Duomesh, via: scenario.ViaProxy, services: 1},
	// A node proxy is not netsim's: capture puts it there.
	plan.Ztunnel:          {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1},
	plan.ZtunnelPlain:     {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1},
	plan.ZtunnelWaypoint:  {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1, tunnelled: true},
	plan.HBONERefWaypoint: {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1, tunnelled: true},
	plan.HBONERef:         {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1},
	plan.TCPRedirect:      {mesh: scenario.NoMesh, via: scenario.ViaProxy, services: 1},
}

func shapeOf(v plan.Variant) shape {
	s := shapes[v]
	s.many = v.Traits().Many
	return s
}

// manyServices is how many other services there are where short connections to several
// are measured.
const manyServices = 16

func manyNames() []string {
	var all []string
	for i := range manyServices {
		all = append(all, fmt.Sprintf("short-%02d", i))
	}
	return all
}

// proxied reports whether an Envoy of the mesh's own stands between.
func (s shape) proxied() bool { return s.via == scenario.ViaWaypoint || s.dialled() }

// dialled reports whether that is an Envoy which the client asks for itself.
func (s shape) dialled() bool { return s.via == scenario.ViaProxy && s.mesh == scenario.Duomesh }

func topology(s shape) scenario.Topology {
	managed := s.mesh == scenario.Duomesh && s.via != scenario.ViaProxy
	t := scenario.Topology{Mesh: s.mesh, Nodes: []scenario.Node{
		{Name: "a", Pods: []scenario.Pod{{Name: clientCross, Managed: managed}}},
		{Name: "b", Pods: []scenario.Pod{{Name: clientSame, Managed: managed}, {Name: serverPod, Managed: managed}}},
	}}
	if s.tunnelled {
		t.Nodes[1].Pods = append(t.Nodes[1].Pods, scenario.Pod{Name: proxyPod})
	}
	if s.proxied() {
		t.Nodes[1].Pods = append(t.Nodes[1].Pods, scenario.Pod{Name: proxyPod, Waypoint: true})
	}
	return t
}

// services declares n services in front of the server. The one that clients ask
// for stands in the middle: iptables rules are tried from the first on.
func services(s shape) scenario.Objects {
	var o scenario.Objects
	n := s.services
	names := make([]string, n)
	for i := range n {
		names[i] = fmt.Sprintf("other-%04d", i)
	}
	if n > 0 {
		names[n/2] = serviceName
	}
	if s.many {
		names = append(names, manyNames()...)
	}
	for i, name := range names {
		o.Services = append(o.Services, scenario.Service{
			Name: name, Family: scenario.IPv4,
			Ports:     []scenario.Port{{Port: servicePort, Target: serverPort}},
			Endpoints: []scenario.Endpoint{{Pod: serverPod, Weight: 1}},
		})
		if one := &o.Services[i]; s.proxied() {
			one.Waypoint, one.Ports[0].Name = proxyPod, "http"
		}
	}
	return o
}

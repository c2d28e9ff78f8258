package l4

import (
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// The generator of random Snapshots: small pools, so that claims meet, and
// every rule of the decision table has something to bite on.

// listening are the ports on which an unredirected connection is answered.
var listening = ports

func (w *worker) vip() netip.Addr {
	if w.r.IntN(2) == 0 {
		return addr("10.9.0." + itoa(1+w.r.IntN(6)))
	}
	return addr("fd00:9::" + itoa(1+w.r.IntN(6)))
}

// destination is mostly a VIP, else an endpoint or an unknown address.
func (w *worker) destination() netip.Addr {
	switch w.r.IntN(10) {
	case 0:
		return addr("10.1.0." + itoa(1+w.r.IntN(8)))
	case 1:
		return addr("fd00:1::" + itoa(1+w.r.IntN(8)))
	}
	return w.vip()
}

// change adds, replaces and removes some services; the others keep their
// pointers.
func (w *worker) change() {
	w.services = slices.Clone(w.services)
	for range 1 + w.r.IntN(3) {
		svc := w.service()
		at := slices.IndexFunc(w.services, func(s *intent.Service) bool { return s.Key() == svc.Key() })
		switch {
		case at < 0:
			w.services = append(w.services, svc)
		case w.r.IntN(3) == 0:
			w.services = slices.Delete(w.services, at, at+1)
		default:
			w.services[at] = svc
		}
	}
	w.r.Shuffle(len(w.services), func(i, j int) {
		w.services[i], w.services[j] = w.services[j], w.services[i]
	})
	w.changeWorkloads()
}

// changeWorkloads replaces one workload of a few, or takes it away.
func (w *worker) changeWorkloads() {
	wl := w.workload(w.r.IntN(4))
	wl.UID = "own-" + wl.UID
	wl.HostNetwork = w.r.IntN(6) == 0
	wl.Waypoint = w.waypoint()
	if w.r.IntN(2) == 0 {
		wl.Addresses = append(wl.Addresses, w.vip())
	}
	w.workloads = slices.DeleteFunc(slices.Clone(w.workloads), func(o *intent.Workload) bool { return o.UID == wl.UID })
	if w.r.IntN(4) > 0 {
		w.workloads = append(w.workloads, wl)
	}
}

// waypoint is none, a new one, or one that others have.
func (w *worker) waypoint() *intent.Waypoint {
	const known = 3
	switch {
	case w.r.IntN(3) > 0:
		return nil
	case len(w.waypoints) == known && w.r.IntN(2) == 0:
		return w.waypoints[w.r.IntN(known)]
	}
	codecs := []intent.Codec{intent.OriginalDst, intent.ProxyV2, intent.KmeshTLV}
	made := &intent.Waypoint{Name: "waypoint", Codec: codecs[w.r.IntN(len(codecs))], Port: listening[w.r.IntN(len(listening))]}
	for i := range w.r.IntN(4) {
		made.Endpoints = append(made.Endpoints, intent.Endpoint{Workload: w.workload(i)})
	}
	w.waypoints = append(w.waypoints, made)
	w.waypoints = w.waypoints[max(0, len(w.waypoints)-known):]
	return made
}

func (w *worker) service() *intent.Service {
	svc := &intent.Service{
		Namespace: "ns" + itoa(w.r.IntN(2)),
		Name:      "svc" + itoa(w.r.IntN(4)),
		Canonical: w.r.IntN(4) == 0,
		Balance:   w.balance(),
		Waypoint:  w.waypoint(),
	}
	for range w.r.IntN(4) {
		if a := w.vip(); !slices.Contains(svc.Addresses, a) {
			svc.Addresses = append(svc.Addresses, a)
		}
	}
	for _, p := range listening {
		if w.r.IntN(2) == 0 {
			svc.Ports = append(svc.Ports, intent.Port{Port: p, Target: w.targetPort(), Protocol: intent.TCP})
		}
		if w.r.IntN(3) == 0 {
			svc.Ports = append(svc.Ports, intent.Port{Port: p, Target: w.targetPort(), Protocol: intent.UDP})
		}
	}
	for i := range w.r.IntN(6) {
		svc.Endpoints = append(svc.Endpoints, intent.Endpoint{Workload: w.workload(i), Ports: w.ownPorts()})
	}
	return svc
}

// targetPort is 0 at times: then an endpoint needs one of its own.
func (w *worker) targetPort() uint16 {
	if w.r.IntN(5) == 0 {
		return 0
	}
	return listening[w.r.IntN(len(listening))]
}

func (w *worker) ownPorts() map[uint16]uint16 {
	own := map[uint16]uint16{}
	for _, p := range listening {
		if w.r.IntN(6) == 0 {
			own[p] = listening[w.r.IntN(len(listening))]
		}
	}
	return own
}

func (w *worker) workload(i int) *intent.Workload {
	wl := workload("w" + itoa(i))
	for range w.r.IntN(3) {
		wl.Addresses = append(wl.Addresses, addr("10.1.0."+itoa(1+w.r.IntN(8))))
	}
	for range w.r.IntN(3) {
		wl.Addresses = append(wl.Addresses, addr("fd00:1::"+itoa(1+w.r.IntN(8))))
	}
	wl.Weight = []uint32{0, 1, 1, 3, 100, 1<<32 - 1}[w.r.IntN(6)]
	if w.r.IntN(6) == 0 {
		wl.Hostname = "all-addresses.test"
	}
	wl.Unhealthy = w.r.IntN(6) == 0
	wl.Unprotected = w.r.IntN(12) == 0
	if w.r.IntN(8) == 0 {
		wl.Network = "net2"
	}
	wl.Locality = intent.Locality{Region: "r" + itoa(w.r.IntN(3)), Zone: "z" + itoa(w.r.IntN(3)), Subzone: "s" + itoa(w.r.IntN(3))}
	wl.Node = []string{here.Node, "node-b"}[w.r.IntN(2)]
	wl.Cluster = []string{here.Cluster, "c2"}[w.r.IntN(2)]
	return wl
}

func (w *worker) balance() intent.Balance {
	b := intent.Balance{
		Mode:           []intent.Mode{intent.Any, intent.Any, intent.Strict, intent.Failover, intent.Passthrough}[w.r.IntN(5)],
		AllowUnhealthy: w.r.IntN(4) == 0,
	}
	scopes := []intent.Scope{
		intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone,
		intent.ScopeSubzone, intent.ScopeNode, intent.ScopeCluster,
	}
	w.r.Shuffle(len(scopes), func(i, j int) { scopes[i], scopes[j] = scopes[j], scopes[i] })
	b.Prefer = scopes[:w.r.IntN(4)]
	return b
}

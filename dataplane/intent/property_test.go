package intent_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/duomesh/duomesh/dataplane/intent"
)

var (
	vips     = addrs("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
	networks = []string{"net", "net", "net", "other"}
	words    = []string{"a", "b"}
)

func drawPlace(t *rapid.T) intent.Place {
	word := func(label string) string { return rapid.SampledFrom(words).Draw(t, label) }
	return intent.Place{
		Node: word("node"), Network: rapid.SampledFrom(networks).Draw(t, "network"), Cluster: word("cluster"),
		Locality: intent.Locality{Region: word("region"), Zone: word("zone"), Subzone: word("subzone")},
	}
}

// seldom is true once in n draws. The library's own ranges lean to their ends.
func seldom(t *rapid.T, n int) bool {
	return rapid.Map(rapid.Uint64(), func(v uint64) bool {
		return (v*0x9e3779b97f4a7c15)>>32%uint64(n) == 1
	}).Draw(t, "seldom")
}

func drawWorkload(t *rapid.T, i int) *intent.Workload {
	at := drawPlace(t)
	w := &intent.Workload{
		UID: fmt.Sprint("w", i), Weight: rapid.SampledFrom([]uint32{1, 2, 90, 0}).Draw(t, "weight"), Unhealthy: seldom(t, 4),
		HostNetwork: rapid.Bool().Draw(t, "host"),
		Node:        at.Node, Network: at.Network, Cluster: at.Cluster, Locality: at.Locality,
	}
	if !seldom(t, 4) {
		w.Addresses = append(w.Addresses, netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}))
	}
	if !seldom(t, 4) {
		w.Addresses = append(w.Addresses, netip.AddrFrom16([16]byte{0: 0xfd, 1: 1, 15: byte(i + 1)}))
	}
	return w
}

func drawService(t *rapid.T, i int, workloads []*intent.Workload) *intent.Service {
	s := &intent.Service{
		Namespace: rapid.SampledFrom(words).Draw(t, "namespace"), Name: fmt.Sprint("s", i),
		Addresses: rapid.SliceOfNDistinct(rapid.SampledFrom(vips), 1, 3, rapid.ID[netip.Addr]).Draw(t, "vips"),
		Canonical: rapid.Bool().Draw(t, "canonical"),
		Balance: intent.Balance{
			Mode:           rapid.SampledFrom([]intent.Mode{intent.Any, intent.Any, intent.Strict, intent.Failover, intent.Passthrough}).Draw(t, "mode"),
			Prefer:         rapid.SliceOfN(rapid.SampledFrom(levels), 0, 3).Draw(t, "prefer"),
			AllowUnhealthy: rapid.Bool().Draw(t, "allow"),
		},
	}
	for _, p := range []uint16{80, 81} {
		for _, proto := range protocols[:2] {
			if !seldom(t, 3) {
				s.Ports = append(s.Ports, intent.Port{Port: p, Protocol: proto, Target: rapid.SampledFrom([]uint16{0, 8080}).Draw(t, "target")})
			}
		}
	}
	for _, w := range workloads {
		if rapid.Bool().Draw(t, "endpoint") {
			e := intent.Endpoint{Workload: w}
			if rapid.Bool().Draw(t, "own port") {
				e.Ports = map[uint16]uint16{80: 9000}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	return s
}

func drawSnapshot(t *rapid.T) intent.Snapshot {
	var s intent.Snapshot
	for i := range rapid.IntRange(2, 6).Draw(t, "workloads") {
		s.Workloads = append(s.Workloads, drawWorkload(t, i))
	}
	way := &intent.Waypoint{Name: "way", Codec: intent.ProxyV2, Port: 15039}
	for _, w := range s.Workloads {
		if rapid.Bool().Draw(t, "replica") {
			way.Endpoints = append(way.Endpoints, intent.Endpoint{Workload: w})
		}
		if seldom(t, 4) {
			w.Waypoint = way
		}
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "services") {
		svc := drawService(t, i, s.Workloads)
		if seldom(t, 4) {
			svc.Waypoint = way
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// drawDestination draws a VIP, a workload's address, or a stranger's, at times
// in its v4-mapped form.
func drawDestination(t *rapid.T, s intent.Snapshot) netip.AddrPort {
	all := slices.Clone(vips)
	for _, w := range s.Workloads {
		all = append(all, w.Addresses...)
	}
	all = append(all, addrs("192.0.2.1", "2001:db8::1", "127.0.0.1")...)
	a := rapid.SampledFrom(all).Draw(t, "to")
	if rapid.Bool().Draw(t, "mapped") {
		a = netip.AddrFrom16(a.As16())
	}
	return netip.AddrPortFrom(a, rapid.SampledFrom([]uint16{80, 81, 82}).Draw(t, "port"))
}

var protocols = []intent.Protocol{intent.TCP, intent.UDP, 132}

func TestDecisionsHoldTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		from := intent.Caller{Managed: !seldom(t, 10), Place: drawPlace(t)}
		to := drawDestination(t, s)
		proto := rapid.SampledFrom(protocols).Draw(t, "protocol")
		d := intent.Decide(s, from, to, proto)

		redirected := d.Exit == intent.Redirect || d.Exit == intent.RedirectWaypoint
		if redirected != (len(d.Targets) > 0) {
			t.Fatalf("%s with %d targets", d.Exit, len(d.Targets))
		}
		if from.Managed != (d.Exit != intent.PassUnmanaged) {
			t.Fatalf("managed %t: %s", from.Managed, d.Exit)
		}
		if from.Managed && (proto == 132) != (d.Exit == intent.PassProtocol) {
			t.Fatalf("protocol %d: %s", proto, d.Exit)
		}
		if proto == intent.UDP && (d.Exit == intent.RedirectWaypoint || d.Exit == intent.RefuseNoWaypoint || d.Exit == intent.RefuseNoPort) {
			t.Fatalf("UDP: %s", d.Exit)
		}
		for _, target := range d.Targets {
			checkTarget(t, s, d, target, from.Place, to.Addr())
		}
	})
}

// The drawn Snapshots reach every exit, so that the properties are not empty
// statements. The examples are the same in each run.
func TestEveryExitIsDrawn(t *testing.T) {
	exits := rapid.Custom(func(t *rapid.T) intent.Exit {
		s := drawSnapshot(t)
		from := intent.Caller{Managed: !seldom(t, 10), Place: drawPlace(t)}
		return intent.Decide(s, from, drawDestination(t, s), rapid.SampledFrom(protocols).Draw(t, "protocol")).Exit
	})
	seen := map[intent.Exit]int{}
	for seed := range 3000 {
		seen[exits.Example(seed)]++
	}
	for _, exit := range []intent.Exit{
		intent.PassUnmanaged, intent.PassProtocol, intent.PassNoVIP, intent.PassPassthrough, intent.Redirect,
		intent.RedirectWaypoint, intent.RefuseNoWaypoint, intent.RefuseNoEndpoint, intent.RefuseNoPort,
	} {
		if seen[exit] == 0 {
			t.Errorf("exit %s is never drawn: %v", exit, seen)
		}
	}
	t.Log(seen)
}

func checkTarget(t *rapid.T, s intent.Snapshot, d intent.Decision, target intent.Target, from intent.Place, asked netip.Addr) {
	w := target.Workload
	if target.Addr.Addr().Is4() != asked.Unmap().Is4() {
		t.Fatalf("%s asked, %s chosen: another family", asked, target.Addr)
	}
	if w.Network != from.Network {
		t.Fatalf("%s is on network %s, the caller on %s", w.UID, w.Network, from.Network)
	}
	if target.Weight == 0 || target.Weight != w.Weight || target.Addr.Port() == 0 {
		t.Fatalf("target %+v of weight %d", target, w.Weight)
	}
	if !w.Unhealthy {
		return
	}
	for _, svc := range s.Services {
		if svc.Key() == d.Service && svc.Balance.AllowUnhealthy && d.Exit == intent.Redirect {
			return
		}
	}
	t.Fatalf("%s is unhealthy: %s", w.UID, d.Exit)
}

// A v4-mapped socket's connection is decided as an IPv4 one.
func TestMappedIsIPv4(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		from := intent.Caller{Managed: true, Place: drawPlace(t)}
		to := drawDestination(t, s)
		proto := rapid.SampledFrom(protocols).Draw(t, "protocol")
		plain := netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
		mapped := netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
		a, b := intent.Decide(s, from, plain, proto), intent.Decide(s, from, mapped, proto)
		if a.Exit != b.Exit || a.Service != b.Service || !sameList(dialled(a.Targets), dialled(b.Targets)) {
			t.Fatalf("%s: %s %v; %s: %s %v", plain, a.Exit, dialled(a.Targets), mapped, b.Exit, dialled(b.Targets))
		}
	})
}

// The order in which a Snapshot lists its services has no say.
func TestOrderOfServicesHasNoSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		turned := s
		turned.Services = reversed(s.Services)
		from := intent.Caller{Managed: true, Place: drawPlace(t)}
		to := drawDestination(t, s)
		a, b := intent.Decide(s, from, to, intent.TCP), intent.Decide(turned, from, to, intent.TCP)
		if a.Exit != b.Exit || a.Service != b.Service || !sameList(dialled(a.Targets), dialled(b.Targets)) {
			t.Fatalf("%s: %s %s; turned: %s %s", to, a.Exit, a.Service, b.Exit, b.Service)
		}
	})
}

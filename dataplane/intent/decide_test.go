package intent_test

import (
	"net/netip"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// table is a mesh with one thing for each line of the decision table.
func table() intent.Snapshot {
	one, two := pod("one", "10.1.0.1", "fd01::1"), pod("two", "10.1.0.2")
	six := pod("six", "fd01::6")
	proxy := pod("proxy", "10.1.0.9")
	proxy.Gateway = true
	dead := but(pod("dead", "10.1.0.8"), func(w *intent.Workload) { w.Unhealthy = true })
	way := &intent.Waypoint{Name: "way", Codec: intent.OriginalDst, Port: 15029, Endpoints: endpoints(proxy)}
	gone := &intent.Waypoint{Name: "gone", Codec: intent.OriginalDst, Port: 15029, Endpoints: endpoints(dead)}
	behind := pod("behind", "10.1.0.3", "fd01::3")
	behind.Waypoint = way
	orphan := pod("orphan", "10.1.0.4")
	orphan.Waypoint = gone
	host := pod("host", "10.9.0.1")
	host.HostNetwork, host.Waypoint = true, way

	service := func(name, v4, v6 string, eps ...*intent.Workload) *intent.Service {
		return &intent.Service{
			Name: name, Namespace: "default", Addresses: addrs(v4, v6),
			Ports: []intent.Port{tcp(80, 8080), udp(53, 5353)}, Endpoints: endpoints(eps...),
		}
	}
	waited := service("waited", "10.0.0.2", "fd00::2", one)
	waited.Waypoint = way
	unmanned := service("unmanned", "10.0.0.3", "fd00::3", one)
	unmanned.Waypoint = gone
	through := service("through", "10.0.0.4", "fd00::4", one)
	through.Balance.Mode = intent.Passthrough
	near := service("near", "10.0.0.6", "fd00::6", but(two, func(w *intent.Workload) { w.Node = "b" }))
	near.Balance = intent.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}}
	throughWay := service("through-way", "10.0.0.8", "fd00::8", one)
	throughWay.Balance.Mode, throughWay.Waypoint = intent.Passthrough, way
	barred := but(pod("barred", "10.1.0.5", "fd01::5"), func(w *intent.Workload) { w.Unprotected, w.Waypoint = true, way })
	hostBarred := but(pod("host-barred", "10.9.0.2"), func(w *intent.Workload) { w.Unprotected, w.HostNetwork = true, true })
	barredWay := service("barred-way", "10.0.0.10", "fd00::10", one, barred)
	barredWay.Waypoint = way
	far := service("barred-far", "10.0.0.11", "fd00::11", one, but(barred, func(w *intent.Workload) { w.Node = "b" }))
	far.Balance = intent.Balance{Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeNode}}
	guarded := service("guarded", "10.0.0.12", "fd00::12", one)
	guarded.Waypoint = &intent.Waypoint{Name: "guarded", Codec: intent.OriginalDst, Port: 15029, Endpoints: endpoints(proxy, barred)}
	return intent.Snapshot{
		Workloads: []*intent.Workload{one, two, six, proxy, dead, behind, orphan, host, barred, hostBarred},
		Services: []*intent.Service{
			service("plain", "10.0.0.1", "fd00::1", one, two), waited, unmanned, through,
			service("empty", "10.0.0.5", "fd00::5"), near, service("v6", "10.0.0.7", "fd00::7", six), throughWay,
			service("barred", "10.0.0.9", "fd00::9", one, barred), barredWay, far, guarded,
		},
	}
}

func TestDecisionTable(t *testing.T) {
	const other intent.Protocol = 132 // SCTP
	for _, c := range []struct {
		name    string
		managed bool
		to      string
		proto   intent.Protocol
		exit    intent.Exit
		service string
		targets []string
	}{
		{"not a managed netns", false, "10.0.0.1:80", intent.TCP, intent.PassUnmanaged, "", nil},
		{"not managed, port not declared", false, "10.0.0.1:81", intent.TCP, intent.PassUnmanaged, "", nil},
		{"protocol not TCP or UDP", true, "10.0.0.1:80", other, intent.PassProtocol, "", nil},
		{"loopback", true, "127.0.0.1:80", intent.TCP, intent.PassNoVIP, "", nil},
		{"link-local with scope", true, "[fe80::1%eth0]:80", intent.TCP, intent.PassNoVIP, "", nil},
		{"multicast", true, "224.0.0.1:53", intent.UDP, intent.PassNoVIP, "", nil},
		{"TCP, service with waypoint", true, "10.0.0.2:80", intent.TCP, intent.RedirectWaypoint, "default/waited", []string{"10.1.0.9:15029"}},
		{"TCP, waypoint without replica of the family", true, "[fd00::2]:80", intent.TCP, intent.RefuseNoWaypoint, "default/waited", nil},
		{"TCP, waypoint without live replica", true, "10.0.0.3:80", intent.TCP, intent.RefuseNoWaypoint, "default/unmanned", nil},
		{"TCP, waypoint before passthrough", true, "10.0.0.8:80", intent.TCP, intent.RedirectWaypoint, "default/through-way", []string{"10.1.0.9:15029"}},
		{"UDP, service with waypoint", true, "10.0.0.2:53", intent.UDP, intent.Redirect, "default/waited", []string{"10.1.0.1:5353"}},
		{"frontend, IPv4", true, "10.0.0.1:80", intent.TCP, intent.Redirect, "default/plain", []string{"10.1.0.1:8080", "10.1.0.2:8080"}},
		{"frontend, IPv6", true, "[fd00::1]:80", intent.TCP, intent.Redirect, "default/plain", []string{"[fd01::1]:8080"}},
		{"frontend, v4-mapped", true, "[::ffff:10.0.0.1]:80", intent.TCP, intent.Redirect, "default/plain", []string{"10.1.0.1:8080", "10.1.0.2:8080"}},
		{"frontend, UDP", true, "10.0.0.1:53", intent.UDP, intent.Redirect, "default/plain", []string{"10.1.0.1:5353", "10.1.0.2:5353"}},
		{"passthrough", true, "10.0.0.4:80", intent.TCP, intent.PassPassthrough, "default/through", nil},
		{"passthrough, port not declared", true, "10.0.0.4:81", intent.TCP, intent.RefuseNoPort, "default/through", nil},
		{"no endpoint", true, "10.0.0.5:80", intent.TCP, intent.RefuseNoEndpoint, "default/empty", nil},
		{"no endpoint, UDP", true, "10.0.0.5:53", intent.UDP, intent.RefuseNoEndpoint, "default/empty", nil},
		{"strict miss", true, "10.0.0.6:80", intent.TCP, intent.RefuseNoEndpoint, "default/near", nil},
		{"endpoints of the other family", true, "10.0.0.7:80", intent.TCP, intent.RefuseNoEndpoint, "default/v6", nil},
		{"TCP port not declared", true, "10.0.0.1:81", intent.TCP, intent.RefuseNoPort, "default/plain", nil},
		{"TCP port declared for UDP only", true, "10.0.0.1:53", intent.TCP, intent.RefuseNoPort, "default/plain", nil},
		{"TCP port not declared, v4-mapped", true, "[::ffff:10.0.0.1]:81", intent.TCP, intent.RefuseNoPort, "default/plain", nil},
		{"TCP port not declared, with waypoint", true, "10.0.0.2:81", intent.TCP, intent.RefuseNoPort, "default/waited", nil},
		{"UDP port not declared", true, "10.0.0.1:80", intent.UDP, intent.PassNoVIP, "", nil},
		{"pod with waypoint, any port", true, "10.1.0.3:9999", intent.TCP, intent.RedirectWaypoint, "", []string{"10.1.0.9:15029"}},
		{"pod with waypoint, other family", true, "[fd01::3]:1", intent.TCP, intent.RefuseNoWaypoint, "", nil},
		{"pod with waypoint without live replica", true, "10.1.0.4:80", intent.TCP, intent.RefuseNoWaypoint, "", nil},
		{"pod with waypoint, UDP", true, "10.1.0.3:53", intent.UDP, intent.PassNoVIP, "", nil},
		{"pod without waypoint", true, "10.1.0.1:8080", intent.TCP, intent.PassNoVIP, "", nil},
		{"an endpoint is named by a policy", true, "10.0.0.9:80", intent.TCP, intent.RefusePolicy, "default/barred", nil},
		{"an endpoint is named by a policy, UDP", true, "10.0.0.9:53", intent.UDP, intent.Redirect, "default/barred", []string{"10.1.0.1:5353", "10.1.0.5:5353"}},
		{"an endpoint is named by a policy, port not declared", true, "10.0.0.9:81", intent.TCP, intent.RefuseNoPort, "default/barred", nil},
		{"an endpoint behind a waypoint is named by a policy", true, "10.0.0.10:80", intent.TCP, intent.RefusePolicy, "default/barred-way", nil},
		{"a replica of the waypoint is named by a policy", true, "10.0.0.12:80", intent.TCP, intent.RefusePolicy, "default/guarded", nil},
		{"an endpoint that is not chosen is named by a policy", true, "10.0.0.11:80", intent.TCP, intent.Redirect, "default/barred-far", []string{"10.1.0.1:8080"}},
		{"pod that is named by a policy, with waypoint", true, "10.1.0.5:1", intent.TCP, intent.RefusePolicy, "", nil},
		{"pod that is named by a policy, UDP", true, "10.1.0.5:1", intent.UDP, intent.PassNoVIP, "", nil},
		{"hostNetwork pod that is named by a policy", true, "10.9.0.2:80", intent.TCP, intent.PassNoVIP, "", nil},
		{"hostNetwork pod with waypoint", true, "10.9.0.1:80", intent.TCP, intent.PassNoVIP, "", nil},
		{"unknown address", true, "192.0.2.1:80", intent.TCP, intent.PassNoVIP, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := intent.Decide(table(), intent.Caller{Managed: c.managed, Place: here}, netip.MustParseAddrPort(c.to), c.proto)
			if got.Exit != c.exit || got.Service != c.service || !sameList(dialled(got.Targets), c.targets) {
				t.Errorf("got %s %q %v, want %s %q %v", got.Exit, got.Service, dialled(got.Targets), c.exit, c.service, c.targets)
			}
		})
	}
}

// An address means the workload that has it on the caller's network: another network may
// use it, too.
func TestAddressesOfAnotherNetwork(t *testing.T) {
	way := &intent.Waypoint{Name: "way", Codec: intent.OriginalDst, Port: 15029, Endpoints: endpoints(pod("replica", "10.1.0.9"))}
	local, twin := pod("local", "10.1.0.1"), pod("twin", "10.1.0.1", "10.1.0.2")
	twin.Network = "other"
	for _, c := range []struct {
		name   string
		change func()
		want   intent.Exit // where the twin is
	}{
		{"with a waypoint", func() { twin.Waypoint = way }, intent.RefuseNoWaypoint},
		{"named by a policy", func() { twin.Unprotected = true }, intent.RefusePolicy},
	} {
		c.change()
		s := intent.Snapshot{Workloads: []*intent.Workload{twin, local}}
		exit := func(network, to string) intent.Exit {
			return intent.Decide(s, intent.Caller{Managed: true, Place: intent.Place{Network: network}}, netip.MustParseAddrPort(to), intent.TCP).Exit
		}
		for _, to := range []string{"10.1.0.1:80", "10.1.0.2:80"} {
			if got := exit(here.Network, to); got != intent.PassNoVIP {
				t.Errorf("%s, %s: %s", c.name, to, got)
			}
			if got := exit("other", to); got != c.want {
				t.Errorf("%s, %s from the twin's network: %s, want %s", c.name, to, got, c.want)
			}
		}
	}
}

// A service that lets connections pass opens no way round what is at its address.
func TestPassthroughAtAWorkloadsAddress(t *testing.T) {
	way := &intent.Waypoint{Name: "way", Codec: intent.OriginalDst, Port: 15029, Endpoints: endpoints(pod("replica", "10.1.0.9"))}
	through := &intent.Service{
		Name: "through", Namespace: "stranger", Addresses: addrs("10.1.0.1"), Ports: []intent.Port{tcp(80, 0), udp(80, 0)},
		Balance: intent.Balance{Mode: intent.Passthrough},
	}
	for _, c := range []struct {
		name   string
		change func(*intent.Workload)
		want   intent.Exit
	}{
		{"nothing", func(*intent.Workload) {}, intent.PassPassthrough},
		{"with a waypoint", func(w *intent.Workload) { w.Waypoint = way }, intent.RedirectWaypoint},
		{"named by a policy", func(w *intent.Workload) { w.Unprotected = true }, intent.RefusePolicy},
		{"of the node, with a waypoint", func(w *intent.Workload) { w.HostNetwork, w.Waypoint = true, way }, intent.PassPassthrough},
		{"of another network", func(w *intent.Workload) { w.Network, w.Waypoint = "other", way }, intent.PassPassthrough},
	} {
		s := intent.Snapshot{Services: []*intent.Service{through}, Workloads: []*intent.Workload{but(pod("pod", "10.1.0.1"), c.change)}}
		for proto, want := range map[intent.Protocol]intent.Exit{intent.TCP: c.want, intent.UDP: intent.PassPassthrough} {
			got := intent.Decide(s, intent.Caller{Managed: true, Place: here}, netip.MustParseAddrPort("10.1.0.1:80"), proto)
			if got.Exit != want {
				t.Errorf("a workload %s, %s: %s, want %s", c.name, proto, got.Exit, want)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for exit, want := range map[intent.Exit]bool{
		intent.PassUnmanaged: false, intent.PassProtocol: false, intent.PassNoVIP: false, intent.PassPassthrough: false,
		intent.Redirect: false, intent.RedirectWaypoint: false,
		intent.RefuseNoWaypoint: true, intent.RefuseNoEndpoint: true, intent.RefuseNoPort: true, intent.RefusePolicy: true,
	} {
		if exit.Refused() != want {
			t.Errorf("%s: refused %t, want %t", exit, exit.Refused(), want)
		}
	}
}

// Who has a frontend that several services claim, and who is named.
func TestClaims(t *testing.T) {
	vip := netip.MustParseAddr("10.0.0.1")
	at := intent.Frontend{Addr: vip, Port: 80, Protocol: intent.TCP}
	service := func(namespace, name string, canonical bool, ports ...intent.Port) *intent.Service {
		return &intent.Service{Namespace: namespace, Name: name, Canonical: canonical, Addresses: []netip.Addr{vip}, Ports: ports}
	}
	for _, c := range []struct {
		name     string
		services []*intent.Service
		winner   string
		losers   []string
	}{
		{"one", []*intent.Service{service("b", "b", false, tcp(80, 1))}, "b/b", nil},
		{"first by namespace", []*intent.Service{service("b", "a", false, tcp(80, 1)), service("a", "b", false, tcp(80, 2))}, "a/b", []string{"b/a"}},
		{"first by name", []*intent.Service{service("a", "b", false, tcp(80, 1)), service("a", "a", false, tcp(80, 2))}, "a/a", []string{"a/b"}},
		{"canonical", []*intent.Service{service("a", "a", false, tcp(80, 1)), service("b", "b", true, tcp(80, 2))}, "b/b", []string{"a/a"}},
		{"two canonical", []*intent.Service{service("b", "b", true, tcp(80, 1)), service("a", "a", true, tcp(80, 2))}, "a/a", []string{"b/b"}},
		{"three", []*intent.Service{service("c", "c", false, tcp(80, 1)), service("b", "b", false, tcp(80, 2)), service("a", "a", true, tcp(80, 3))}, "a/a", []string{"b/b", "c/c"}},
		{"other port", []*intent.Service{service("b", "b", false, tcp(80, 1)), service("a", "a", false, tcp(81, 2))}, "b/b", nil},
		{"other protocol", []*intent.Service{service("b", "b", false, tcp(80, 1)), service("a", "a", false, udp(80, 2))}, "b/b", nil},
		{"address listed twice", []*intent.Service{but(service("a", "a", false, tcp(80, 1)), func(s *intent.Service) { s.Addresses = append(s.Addresses, vip) })}, "a/a", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, conflicts := intent.Snapshot{Services: c.services}.Claims()
			if got := claims[at]; got.Service == nil || got.Service.Key() != c.winner || got.Port.Port != 80 {
				t.Errorf("claim %v, want %s", got, c.winner)
			}
			if c.losers == nil {
				if len(conflicts) != 0 {
					t.Errorf("conflicts %v, want none", conflicts)
				}
				return
			}
			want := append([]string{c.winner}, c.losers...)
			if len(conflicts) != 1 || conflicts[0].Frontend != at || !sameList(conflicts[0].Services, want) {
				t.Errorf("conflicts %v, want %s by %v", conflicts, at, want)
			}
		})
	}
}

// Two services may share an address with different ports: the port that
// neither declares is refused, the others go to their own service.
func TestSharedAddressDifferentPorts(t *testing.T) {
	a := &intent.Service{Namespace: "x", Name: "a", Addresses: addrs("10.0.0.1"), Ports: []intent.Port{tcp(80, 1)}, Endpoints: endpoints(pod("p", "10.1.0.1"))}
	b := &intent.Service{Namespace: "x", Name: "b", Addresses: addrs("10.0.0.1"), Ports: []intent.Port{tcp(81, 2)}, Endpoints: endpoints(pod("q", "10.1.0.2"))}
	s := intent.Snapshot{Services: []*intent.Service{a, b}}
	for to, want := range map[string]string{
		"10.0.0.1:80": "redirect x/a [10.1.0.1:1]", "10.0.0.1:81": "redirect x/b [10.1.0.2:2]", "10.0.0.1:82": "refuse-no-port x/a []",
	} {
		d := intent.Decide(s, intent.Caller{Managed: true, Place: here}, netip.MustParseAddrPort(to), intent.TCP)
		if got := string(d.Exit) + " " + d.Service + " " + sprint(dialled(d.Targets)); got != want {
			t.Errorf("%s: got %s, want %s", to, got, want)
		}
	}
}

// A frontend has a form that people read.
func TestFrontendString(t *testing.T) {
	for f, want := range map[intent.Frontend]string{
		{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80, Protocol: intent.TCP}: "10.0.0.1:80/TCP",
		{Addr: netip.MustParseAddr("fd00::1"), Port: 53, Protocol: intent.UDP}:  "[fd00::1]:53/UDP",
		{Addr: netip.MustParseAddr("fd00::1"), Port: 53, Protocol: 132}:         "[fd00::1]:53/protocol 132",
	} {
		if f.String() != want {
			t.Errorf("got %s, want %s", f, want)
		}
	}
}

package xds

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// given is a mesh that has taken resources, none of which it refused.
func given(t *testing.T, c Config, resources ...*discovery.Resource) *mesh {
	t.Helper()
	m := newMesh(c)
	m.give(t, addressType, resources)
	return m
}

func (m *mesh) give(t *testing.T, typeURL string, resources []*discovery.Resource, removed ...string) {
	t.Helper()
	r := istiod.Response{TypeURL: typeURL, Removed: removed}
	for _, res := range resources {
		r.Resources = append(r.Resources, istiod.Resource{Name: res.Name, Version: res.Version, Body: res.Resource})
	}
	if refused := m.take(r); len(refused) > 0 {
		t.Fatalf("refused: %v", refused)
	}
	must(t, m.snapshot().Validate())
}

func byName(name string) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{
		Destination:   &workloadapi.GatewayAddress_Hostname{Hostname: &workloadapi.NamespacedHostname{Namespace: "demo", Hostname: name + ".demo.svc.cluster.local"}},
		HboneMtlsPort: 15008,
	}
}

func byIP(ip string) *workloadapi.GatewayAddress {
	return &workloadapi.GatewayAddress{Destination: &workloadapi.GatewayAddress_Address{Address: &workloadapi.NetworkAddress{Address: bytesOf(ip)}}}
}

func through(g *workloadapi.GatewayAddress) func(*workloadapi.Service) {
	return func(s *workloadapi.Service) { s.Waypoint = g }
}

func behind(g *workloadapi.GatewayAddress) func(*workloadapi.Workload) {
	return func(w *workloadapi.Workload) { w.Waypoint = g }
}

func ill(w *workloadapi.Workload) { w.Status = workloadapi.WorkloadStatus_UNHEALTHY }

// goes is where a connection of an enrolled pod goes.
func goes(m *mesh, to string) string {
	d := intent.Decide(m.snapshot(), intent.Caller{Managed: true}, netip.MustParseAddrPort(to), intent.TCP)
	text := string(d.Exit)
	for _, target := range d.Targets {
		text += " " + target.Addr.String()
	}
	return text
}

func wantGoes(t *testing.T, m *mesh, want map[string]string) {
	t.Helper()
	for to, where := range want {
		if got := goes(m, to); got != where {
			t.Errorf("%s: %s, want %s", to, got, where)
		}
	}
}

func workloadOf(t *testing.T, m *mesh, uid string) *intent.Workload {
	t.Helper()
	for _, w := range m.snapshot().Workloads {
		if w.UID == uid {
			return w
		}
	}
	t.Fatalf("no workload %s", uid)
	return nil
}

// A waypoint is named by the hostname or the address of its service, or by a pod's
// own address: in whatever order they come, its replicas take the connections.
func TestWaypoints(t *testing.T) {
	for name, gateway := range map[string]*workloadapi.GatewayAddress{
		"by hostname": byName("way"), "by the service's address": byIP("10.9.0.99"), "by a pod's address": byIP("10.1.0.9"),
	} {
		t.Run(name, func(t *testing.T) {
			all := these(
				svc("web", "10.9.0.1", through(gateway)), wl("a", "10.1.0.1", []string{"web"}),
				wl("direct", "10.1.0.2", nil, behind(gateway)),
				svc("way", "10.9.0.99"), wl("way-0", "10.1.0.9", []string{"way"}),
			)
			for range all { // each is the first once
				all = append(all[1:], all[0])
				m := newMesh(Config{})
				for _, one := range all {
					m.give(t, addressType, these(one))
				}
				wantGoes(t, m, map[string]string{
					"10.9.0.1:80": "redirect-waypoint 10.1.0.9:15029", "10.1.0.2:4444": "redirect-waypoint 10.1.0.9:15029",
					"10.1.0.1:80": "pass-no-vip", "10.9.0.99:80": "redirect 10.1.0.9:8080", "10.1.0.9:1": "pass-no-vip",
				})
				if way := workloadOf(t, m, "way-0"); !way.Gateway || workloadOf(t, m, "a").Gateway {
					t.Error("a waypoint's pod is no gateway, or another is one")
				}
				if got := m.unused(); len(got) != 0 {
					t.Errorf("status says %q", got)
				}
			}
		})
	}
}

// What becomes of a waypoint's replicas concerns all who name it, and nobody else.
func TestWaypointChanges(t *testing.T) {
	m := given(t, Config{},
		svc("web", "10.9.0.1", through(byName("way"))), svc("plain", "10.9.0.2"), wl("a", "10.1.0.1", []string{"web", "plain"}),
		wl("direct", "10.1.0.2", []string{"plain"}, behind(byName("way"))), wl("way-0", "10.1.0.9", nil), wl("way-1", "10.1.0.8", nil))
	const none = "refuse-no-waypoint"
	step := func(want string, unused string, resources []*discovery.Resource, removed ...string) {
		t.Helper()
		m.give(t, addressType, resources, removed...)
		wantGoes(t, m, map[string]string{"10.9.0.1:80": want, "10.1.0.2:1": want, "10.9.0.2:80": "redirect 10.1.0.1:8080 10.1.0.2:8080"})
		if got := strings.Join(m.unused(), "\n"); got != unused {
			t.Errorf("status says %q, want %q", got, unused)
		}
	}
	unknown := "waypoint demo/way.demo.svc.cluster.local is not known to istiod: TCP connections to 1 services and 1 workloads are refused (refuse-no-waypoint)"
	empty := "waypoint demo/way.demo.svc.cluster.local has no healthy replica: TCP connections to 1 services and 1 workloads are refused (refuse-no-waypoint)"
	step(none, unknown, nil)
	step(none, empty, these(svc("way", "10.9.0.99")))
	step(none, empty, these(wl("way-0", "10.1.0.9", []string{"way"}, ill)))
	step("redirect-waypoint 10.1.0.9:15029", "", these(wl("way-0", "10.1.0.9", []string{"way"})))
	before := m.snapshot()
	step("redirect-waypoint 10.1.0.9:15029 10.1.0.8:15029", "", these(wl("way-1", "10.1.0.8", []string{"way"})))
	for _, s := range before.Services { // through direct, plain has changed as well
		if same := slices.Contains(m.snapshot().Services, s); same {
			t.Errorf("service %s is the same as before", s.Name)
		}
	}
	step("redirect-waypoint 10.1.0.8:15029", "", nil, "way-0")
	step(none, unknown, nil, keyOf("way"))
	step("redirect-waypoint 10.1.0.8:15029", "", these(svc("way", "10.9.0.99")))
	// Nobody names it any more.
	m.give(t, addressType, these(svc("web", "10.9.0.1"), wl("direct", "10.1.0.2", []string{"plain"})))
	wantGoes(t, m, map[string]string{"10.9.0.1:80": "redirect 10.1.0.1:8080", "10.1.0.2:1": "pass-no-vip"})
	if workloadOf(t, m, "way-1").Gateway || len(m.waypoints) != 0 {
		t.Errorf("what nobody names is a waypoint yet: %v", m.waypoints)
	}
}

// A waypoint that names itself is left alone; a replica that has a waypoint goes
// without.
func TestWaypointOfItself(t *testing.T) {
	m := given(t, Config{},
		svc("way", "10.9.0.99", through(byName("way"))), wl("way-0", "10.1.0.9", []string{"way"}, behind(byName("way"))))
	wantGoes(t, m, map[string]string{"10.9.0.99:80": "redirect 10.1.0.9:8080", "10.1.0.9:1": "pass-no-vip"})
}

// A waypoint's replicas are chosen as its own service says.
func TestWaypointBalance(t *testing.T) {
	near := func(s *workloadapi.Service) {
		s.LoadBalancing = &workloadapi.LoadBalancing{Mode: workloadapi.LoadBalancing_FAILOVER, RoutingPreference: []workloadapi.LoadBalancing_Scope{workloadapi.LoadBalancing_NODE}}
	}
	on := func(node string) func(*workloadapi.Workload) { return func(w *workloadapi.Workload) { w.Node = node } }
	m := given(t, Config{}, svc("web", "10.9.0.1", through(byName("way"))), svc("way", "", near),
		wl("way-0", "10.1.0.8", []string{"way"}, on("a")), wl("way-1", "10.1.0.9", []string{"way"}, on("b")))
	for node, want := range map[string]string{"a": "10.1.0.8:15029", "b": "10.1.0.9:15029"} {
		d := intent.Decide(m.snapshot(), intent.Caller{Managed: true, Place: intent.Place{Node: node}}, netip.MustParseAddrPort("10.9.0.1:80"), intent.TCP)
		if len(d.Targets) != 1 || d.Targets[0].Addr.String() != want {
			t.Errorf("from node %s: %+v", node, d)
		}
	}
	m = given(t, Config{Handoff: intent.ProxyV2}, svc("web", "10.9.0.1", through(byIP("10.1.0.9"))), wl("way-1", "10.1.0.9", nil))
	wantGoes(t, m, map[string]string{"10.9.0.1:80": "redirect-waypoint 10.1.0.9:15039"})
}

// A Gateway's annotation comes before what the agent was told; what makes no sense, or is
// another, is said.
func TestHandoffByAnnotation(t *testing.T) {
	for name, c := range map[string]struct {
		told     intent.Codec
		said     map[string]string
		port     string
		disputed []string // words of the line; none: no line
	}{
		"nobody says":        {"", nil, "15029", nil},
		"it says":            {"", map[string]string{"demo/way": "kmesh-tlv"}, "15019", nil},
		"both say the same":  {intent.ProxyV2, map[string]string{"demo/way": "proxy-v2"}, "15039", nil},
		"it says another":    {intent.ProxyV2, map[string]string{"demo/way": "kmesh-tlv"}, "15019", []string{"kmesh-tlv", "the agent was told proxy-v2", "followed"}},
		"it says what is no": {intent.ProxyV2, map[string]string{"demo/way": "hbone"}, "15039", []string{`"hbone"`, "unknown", "proxy-v2 is used"}},
		"another says":       {"", map[string]string{"other/way": "kmesh-tlv"}, "15029", nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := given(t, Config{Handoff: c.told}, svc("web", "10.9.0.1", through(byName("way"))), svc("way", ""), wl("way-0", "10.1.0.8", []string{"way"}))
			m.setHandoffs(c.said)
			must(t, m.snapshot().Validate())
			wantGoes(t, m, map[string]string{"10.9.0.1:80": "redirect-waypoint 10.1.0.8:" + c.port})
			lines := m.handoffLines()
			if (len(lines) == 1) != (len(c.disputed) > 0) || len(lines) > 1 {
				t.Fatalf("lines %q", lines)
			}
			for _, word := range c.disputed {
				if !strings.Contains(lines[0], word) || !slices.Contains(m.unused(), lines[0]) {
					t.Errorf("%q does not say %q", lines[0], word)
				}
			}
			// It goes again.
			m.setHandoffs(map[string]string{})
			port := "15029"
			if c.told != "" {
				port = itoa(c.told.Port())
			}
			wantGoes(t, m, map[string]string{"10.9.0.1:80": "redirect-waypoint 10.1.0.8:" + port})
		})
	}
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }

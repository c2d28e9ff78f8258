package intent_test

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// at returns a pod that differs from where the callers stand.
func at(name, addr string, change func(*intent.Workload)) *intent.Workload {
	return but(pod(name, addr), change)
}

func TestTargets(t *testing.T) {
	near := pod("near", "10.1.0.1")
	heavy := at("heavy", "10.1.0.2", func(w *intent.Workload) { w.Weight = 90 })
	zero := at("zero", "10.1.0.3", func(w *intent.Workload) { w.Weight = 0 })
	ill := at("ill", "10.1.0.4", func(w *intent.Workload) { w.Unhealthy = true })
	abroad := at("abroad", "10.1.0.5", func(w *intent.Workload) { w.Network = "other" })
	dual := pod("dual", "10.1.0.6", "fd01::6", "10.1.0.66", "fd01::66")
	v6 := pod("v6", "fd01::7")
	bare := pod("bare")

	own := []intent.Endpoint{
		{Workload: near, Ports: map[uint16]uint16{80: 9000}},
		{Workload: heavy, Ports: map[uint16]uint16{81: 9001}},
	}
	for _, c := range []struct {
		name  string
		eps   []intent.Endpoint
		port  intent.Port
		v6    bool
		allow bool
		want  []string
	}{
		{"all in their order", endpoints(heavy, near), tcp(80, 8080), false, false, []string{"10.1.0.2:8080", "10.1.0.1:8080"}},
		{"weight 0 is never chosen", endpoints(zero, near), tcp(80, 8080), false, false, []string{"10.1.0.1:8080"}},
		{"only weight 0", endpoints(zero), tcp(80, 8080), false, false, nil},
		{"unhealthy", endpoints(ill, near), tcp(80, 8080), false, false, []string{"10.1.0.1:8080"}},
		{"unhealthy, allowed", endpoints(ill, near), tcp(80, 8080), false, true, []string{"10.1.0.4:8080", "10.1.0.1:8080"}},
		{"other network", endpoints(abroad, near), tcp(80, 8080), false, true, []string{"10.1.0.1:8080"}},
		{"IPv6 only", endpoints(near, dual, v6), tcp(80, 8080), true, false, []string{"[fd01::6]:8080", "[fd01::7]:8080"}},
		{"the first address of a family", endpoints(dual), tcp(80, 8080), false, false, []string{"10.1.0.6:8080"}},
		{"no address", endpoints(bare), tcp(80, 8080), false, false, nil},
		{"own port wins", own, tcp(80, 8080), false, false, []string{"10.1.0.1:9000", "10.1.0.2:8080"}},
		{"named port", own, tcp(80, 0), false, false, []string{"10.1.0.1:9000"}},
		{"named port of the other", own, tcp(81, 0), false, false, []string{"10.1.0.2:9001"}},
		{"named port that nobody has", own, tcp(82, 0), false, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := intent.Service{Endpoints: c.eps, Balance: intent.Balance{AllowUnhealthy: c.allow}}
			got := s.Targets(c.port, c.v6, here)
			if !sameList(dialled(got), c.want) {
				t.Errorf("got %v, want %v", dialled(got), c.want)
			}
			for _, target := range got {
				if target.Weight != target.Workload.Weight {
					t.Errorf("%s: weight %d, want %d", target.Workload.Name, target.Weight, target.Workload.Weight)
				}
			}
		})
	}
}

// levels are the scopes that the failover tests go through. The network is not
// among them: an endpoint on another one is never chosen.
var levels = []intent.Scope{
	intent.ScopeCluster, intent.ScopeRegion, intent.ScopeZone, intent.ScopeSubzone, intent.ScopeNode,
}

var leave = map[intent.Scope]func(*intent.Workload){
	intent.ScopeCluster: func(w *intent.Workload) { w.Cluster = "far" },
	intent.ScopeRegion:  func(w *intent.Workload) { w.Locality.Region = "far" },
	intent.ScopeZone:    func(w *intent.Workload) { w.Locality.Zone = "far" },
	intent.ScopeSubzone: func(w *intent.Workload) { w.Locality.Subzone = "far" },
	intent.ScopeNode:    func(w *intent.Workload) { w.Node = "far" },
}

// ladder returns a pod that differs in the first level alone, one that differs
// in the second alone, and so on; the last stands where the caller is.
func ladder() []*intent.Workload {
	var pods []*intent.Workload
	for _, s := range levels {
		pods = append(pods, at(string(s), "10.1.0.1", leave[s]))
	}
	return append(pods, at("home", "10.1.0.1", func(*intent.Workload) {}))
}

func chosen(mode intent.Mode, prefer []intent.Scope, from intent.Place, pods ...*intent.Workload) []string {
	s := intent.Service{Endpoints: endpoints(pods...), Balance: intent.Balance{Mode: mode, Prefer: prefer}}
	var got []string
	for _, target := range s.Targets(tcp(80, 80), false, from) {
		got = append(got, target.Workload.Name)
	}
	return got
}

func reversed[T any](list []T) []T {
	var r []T
	for i := len(list) - 1; i >= 0; i-- {
		r = append(r, list[i])
	}
	return r
}

// With the nearest endpoint gone, the next level takes over, down to the last.
func TestFailoverThroughAllLevels(t *testing.T) {
	pods := ladder()
	for len(pods) > 0 {
		nearest := []string{pods[len(pods)-1].Name}
		for _, order := range [][]*intent.Workload{pods, reversed(pods)} {
			if got := chosen(intent.Failover, levels, here, order...); !sameList(got, nearest) {
				t.Errorf("of %d pods: got %v, want %v", len(pods), got, nearest)
			}
		}
		pods = pods[:len(pods)-1]
	}
}

// All that match equally far are kept, in their order, also after a nearer
// group has replaced a farther one.
func TestFailoverKeepsTheWholeLevel(t *testing.T) {
	far1, far2 := at("far1", "10.1.0.1", leave[intent.ScopeZone]), at("far2", "10.1.0.2", leave[intent.ScopeZone])
	near1, near2 := pod("near1", "10.1.0.3"), pod("near2", "10.1.0.4")
	zone := []intent.Scope{intent.ScopeZone}
	if got := chosen(intent.Failover, zone, here, far1, near1, far2, near2); !sameList(got, []string{"near1", "near2"}) {
		t.Errorf("got %v", got)
	}
	if got := chosen(intent.Failover, zone, here, far1, far2); !sameList(got, []string{"far1", "far2"}) {
		t.Errorf("none near: got %v", got)
	}
}

// A match in a later scope does not make good for a miss in an earlier one.
func TestFailoverComparesInOrder(t *testing.T) {
	sameZone := at("same zone", "10.1.0.1", leave[intent.ScopeNode])
	sameNode := at("same node", "10.1.0.2", leave[intent.ScopeZone])
	if got := chosen(intent.Failover, []intent.Scope{intent.ScopeZone, intent.ScopeNode}, here, sameNode, sameZone); !sameList(got, []string{"same zone"}) {
		t.Errorf("zone first: got %v", got)
	}
	if got := chosen(intent.Failover, []intent.Scope{intent.ScopeNode, intent.ScopeZone}, here, sameNode, sameZone); !sameList(got, []string{"same node"}) {
		t.Errorf("node first: got %v", got)
	}
}

// An endpoint that cannot be chosen does not keep a farther one away.
func TestFailoverPastAnUnusableEndpoint(t *testing.T) {
	ill := at("ill", "10.1.0.1", func(w *intent.Workload) { w.Unhealthy = true })
	none := at("none", "10.1.0.2", func(w *intent.Workload) { w.Weight = 0 })
	far := at("far", "10.1.0.3", leave[intent.ScopeNode])
	if got := chosen(intent.Failover, []intent.Scope{intent.ScopeNode}, here, ill, none, far); !sameList(got, []string{"far"}) {
		t.Errorf("got %v", got)
	}
}

func TestStrictNeedsEveryScope(t *testing.T) {
	if got := chosen(intent.Strict, levels, here, ladder()...); !sameList(got, []string{"home"}) {
		t.Errorf("got %v", got)
	}
	for i, s := range levels {
		left := ladder()[i]
		if got := chosen(intent.Strict, []intent.Scope{s}, here, left); got != nil {
			t.Errorf("strict %s: got %v", s, got)
		}
		if got := chosen(intent.Strict, []intent.Scope{intent.ScopeNetwork}, here, left); !sameList(got, []string{left.Name}) {
			t.Errorf("strict network: got %v, want %s", got, left.Name)
		}
	}
	if got := chosen(intent.Strict, nil, here, ladder()[0]); len(got) != 1 {
		t.Errorf("strict without scopes: got %v", got)
	}
}

// Without a locality mode, scopes have no say.
func TestAnyIgnoresPrefer(t *testing.T) {
	pods := ladder()
	if got := chosen(intent.Any, levels, here, pods...); len(got) != len(pods) {
		t.Errorf("got %v, want all %d", got, len(pods))
	}
}

func TestReplicas(t *testing.T) {
	w := intent.Waypoint{Port: 15029, Endpoints: endpoints(
		pod("live", "10.1.0.1", "fd01::1"),
		at("ill", "10.1.0.2", func(w *intent.Workload) { w.Unhealthy = true }),
		at("abroad", "10.1.0.3", func(w *intent.Workload) { w.Network = "other" }),
		at("zero", "10.1.0.4", func(w *intent.Workload) { w.Weight = 0 }),
		at("heavy", "10.1.0.5", func(w *intent.Workload) { w.Weight = 3 }),
	)}
	got := w.Replicas(false, here)
	if !sameList(dialled(got), []string{"10.1.0.1:15029", "10.1.0.5:15029"}) || got[0].Weight != 1 || got[1].Weight != 3 {
		t.Errorf("IPv4: got %v", got)
	}
	if got := w.Replicas(true, here); !sameList(dialled(got), []string{"[fd01::1]:15029"}) {
		t.Errorf("IPv6: got %v", dialled(got))
	}
}

package netsim

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestFrontendsMissing(t *testing.T) {
	v1, v2 := netip.MustParseAddrPort("10.1.1.1:8080"), netip.MustParseAddrPort("10.2.1.1:8080")
	target := func(to netip.AddrPort, share float64) api.Target { return api.Target{Address: to, Share: share} }
	front := func(service, f string, targets ...api.Target) api.Frontend {
		return api.Frontend{Service: service, Frontend: f, Targets: targets}
	}
	want := frontends{"default/fortio": {"10.96.0.2:80/TCP": {v1: .9, v2: .1}}, "default/empty": {"10.96.0.3:80/TCP": {}}}
	known := map[string]bool{"default/fortio": true, "default/empty": true, "default/gone": true}
	whole := []api.Frontend{
		front("default/fortio", "10.96.0.2:80/TCP", target(v1, .9), target(v2, .1)),
		front("default/fortio", "10.96.0.2:80/UDP", target(v1, .9), target(v2, .1)),
		front("default/empty", "10.96.0.3:80/TCP"),
		front("default/kubernetes", "10.96.0.1:443/TCP", target(v1, 1)),
	}
	tests := []struct {
		name string
		got  []api.Frontend
		want string
	}{
		{"all is there", whole, ""},
		{"nothing is there", nil, "no frontend 10.96.0."},
		{"a removed service is there", append(whole[:4:4], front("default/gone", "10.96.0.9:80/TCP")), "service default/gone: frontend 10.96.0.9:80/TCP is too much"},
		{"a removed port is there", append(whole[:4:4], front("default/fortio", "10.96.0.2:81/TCP")), "10.96.0.2:81/TCP is too much"},
		{"the old weights", append(whole[1:4:4], front("default/fortio", "10.96.0.2:80/TCP", target(v1, .5), target(v2, .5))), "sends 0.5 to"},
		{"a removed endpoint", append(whole[:2:2], front("default/empty", "10.96.0.3:80/TCP", target(v1, 1))), "has 1 targets, not 0"},
		{"an endpoint too few", append(whole[1:4:4], front("default/fortio", "10.96.0.2:80/TCP", target(v1, 1))), "has 1 targets, not 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := want.missing(api.Endpoints{Frontends: tt.got}, known)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("missing says %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFrontendsOf(t *testing.T) {
	w := &intent.Workload{UID: "u", Name: "v1", Addresses: []netip.Addr{netip.MustParseAddr("10.1.1.1")}, Weight: 3}
	s := &intent.Service{
		Name: "fortio", Namespace: "default", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.2")},
		Ports: []intent.Port{{Port: 80, Target: 8080, Protocol: intent.TCP}}, Endpoints: []intent.Endpoint{{Workload: w}},
	}
	all := frontendsOf(&desired{snapshot: intent.Snapshot{Services: []*intent.Service{s}}}, intent.Place{Node: "a"})
	if got := all["default/fortio"]["10.96.0.2:80/TCP"][netip.MustParseAddrPort("10.1.1.1:8080")]; got != 1 {
		t.Errorf("%v", all)
	}
}

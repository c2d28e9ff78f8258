package kind

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

// A route whose endpoints have not come answers 503: a waypoint has what is declared when
// its Envoy knows exactly the pods that are.
func TestLacksEndpoints(t *testing.T) {
	c := &Cluster{namespace: "w", pods: map[string]*pod{}}
	for name, a := range map[string]string{"v1": "10.0.0.1", "v2": "10.0.0.2", "v3": "fd00::3"} {
		c.pods[name] = &pod{spec: scenario.Pod{Name: name}, addrs: []netip.Addr{netip.MustParseAddr(a)}}
	}
	o := scenario.Objects{
		Unready: []string{"v3"},
		Services: []scenario.Service{
			{Name: "echo", Waypoint: "w", Routes: []scenario.Route{{Backends: []scenario.Backend{{Service: "one", Weight: 9}, {Service: "never"}}}}},
			{Name: "one", Endpoints: []scenario.Endpoint{{Pod: "v2", Weight: 1}, {Pod: "v1", Weight: 1}, {Pod: "v3", Weight: 1}}},
			{Name: "never", Endpoints: []scenario.Endpoint{{Pod: "v2", Weight: 1}}},
			{Name: "plain", Waypoint: "w", Endpoints: []scenario.Endpoint{{Pod: "v3", Weight: 1}}, PublishNotReady: true},
			{Name: "elsewhere", Waypoint: "x", Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: 1}}},
		},
	}
	want := c.endpoints(o, "w")
	if len(want) != 2 || strings.Join(want["one.w.svc.cluster.local"], " ") != "v1 v2" || strings.Join(want["plain.w.svc.cluster.local"], " ") != "v3" {
		t.Fatalf("wanted are %v", want)
	}
	socket := func(a string) string {
		return `{"endpoint":{"address":{"socket_address":{"address":"` + a + `"}}}}`
	}
	tunnel := `{"endpoint":{"address":{"envoy_internal_address":{"endpoint_id":"[fd00::3]:80"}}}}`
	config := func(cluster string, endpoints ...string) string {
		return `{"endpoint_config":{"cluster_name":"` + cluster + `","endpoints":[{"lb_endpoints":[` + strings.Join(endpoints, ",") + `]}]}}`
	}
	one, plain := "outbound|80||one.w.svc.cluster.local", "inbound-vip|80|http|plain.w.svc.cluster.local"
	right := config(plain, tunnel)
	for _, c2 := range []struct {
		configs []string
		gap     string
	}{
		{[]string{config(one, socket("10.0.0.1"), socket("10.0.0.2")), right}, ""},
		{[]string{config(one, socket("10.0.0.1"), socket("10.0.0.2"))}, "no endpoints for plain.w"},
		{[]string{config(one), right}, "the endpoints [], not [v1 v2]"},
		{[]string{config(one, socket("10.0.0.1")), right}, "[v1], not [v1 v2]"},
		{[]string{config(one, socket("10.0.0.1"), socket("10.0.0.2"), socket("10.0.0.9")), right}, "[10.0.0.9 v1 v2], not"},
		{[]string{config(one, socket("10.0.0.1"), socket("10.0.0.2")), config("inbound-vip|80|http|one.w.svc.cluster.local"), right}, "the endpoints []"},
	} {
		dump := `{"configs":[{},{"dynamic_endpoint_configs":[` + strings.Join(c2.configs, ",") + `]}]}`
		gap, err := c.lacksEndpoints([]byte(dump), want)
		if err != nil || (gap == "") != (c2.gap == "") || !strings.Contains(gap, c2.gap) {
			t.Errorf("%s: %q, %v; want %q", dump, gap, err, c2.gap)
		}
	}
	if _, err := c.lacksEndpoints([]byte("nonsense"), want); err == nil {
		t.Error("nonsense is read")
	}
}

package kube

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/scenario"
)

func world() World {
	a := netip.MustParseAddr
	return World{
		Namespace: "default",
		Services: map[string][]netip.Addr{
			"dual": {a("10.96.0.2"), a("fd96::2")}, "out": {a("192.0.2.1")}, "six": {a("fd96::3")},
		},
		Pods: map[string]Pod{
			"v1": {Addresses: []netip.Addr{a("10.1.1.1"), a("fd00:10:0:1::100")}, Ports: map[string]uint16{"web": 8080}},
			"v2": {Addresses: []netip.Addr{a("10.2.1.1"), a("fd00:10:0:2::100")}},
		},
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/108")},
	}
}

func one(name string, endpoints ...scenario.Endpoint) scenario.Objects {
	return scenario.Objects{Services: []scenario.Service{{
		Name: name, Ports: []scenario.Port{{Port: 80, Target: 8080}}, Endpoints: endpoints,
	}}}
}

// shown is what a test compares: kind/name and the fields asked for.
func shown(objects []*unstructured.Unstructured, fields ...string) map[string]any {
	all := map[string]any{}
	for _, o := range objects {
		spec := map[string]any{}
		for _, f := range fields {
			if v, ok, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", f); ok {
				spec[f] = v
			}
		}
		all[o.GetKind()+"/"+o.GetName()] = spec
	}
	return all
}

func TestEqualWeightsArePods(t *testing.T) {
	r, err := Render(one("dual", scenario.Endpoint{Pod: "v1", Weight: 5}, scenario.Endpoint{Pod: "v2", Weight: 5}), world())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Service/dual": map[string]any{
		"clusterIPs": []any{"10.96.0.2", "fd96::2"}, "ipFamilies": []any{"IPv4", "IPv6"}, "ipFamilyPolicy": "RequireDualStack",
	}}
	if d := cmp.Diff(want, shown(r.Objects, "clusterIPs", "ipFamilies", "ipFamilyPolicy", "weight")); d != "" {
		t.Error(d)
	}
	label := map[string]string{"service.duomesh.io/dual": ""}
	if d := cmp.Diff(map[string]map[string]string{"v1": label, "v2": label}, r.Labels); d != "" {
		t.Error(d)
	}
}

func TestWeightsAreWorkloadEntries(t *testing.T) {
	r, err := Render(one("six", scenario.Endpoint{Pod: "v1", Weight: 90}, scenario.Endpoint{Pod: "v2", Weight: 10}), world())
	if err != nil {
		t.Fatal(err)
	}
	entry := func(address string, weight int64) map[string]any {
		return map[string]any{"address": address, "weight": weight}
	}
	want := map[string]any{
		"Service/six":             map[string]any{},
		"WorkloadEntry/six-v1-v4": entry("10.1.1.1", 90),
		"WorkloadEntry/six-v1-v6": entry("fd00:10:0:1::100", 90),
		"WorkloadEntry/six-v2-v4": entry("10.2.1.1", 10),
		"WorkloadEntry/six-v2-v6": entry("fd00:10:0:2::100", 10),
	}
	if d := cmp.Diff(want, shown(r.Objects, "address", "weight")); d != "" {
		t.Error(d)
	}
	if len(r.Labels) > 0 {
		t.Errorf("pods are behind it as well: %v", r.Labels)
	}
}

func TestWeightZeroIsNoEndpoint(t *testing.T) {
	r, err := Render(one("six", scenario.Endpoint{Pod: "v1", Weight: 0}, scenario.Endpoint{Pod: "v2", Weight: 1}), world())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Objects) != 1 || r.Labels["v1"] != nil || r.Labels["v2"] == nil {
		t.Errorf("%d objects, labels %v", len(r.Objects), r.Labels)
	}
}

func TestAddressOutsideIsServiceEntry(t *testing.T) {
	r, err := Render(one("out", scenario.Endpoint{Pod: "v1", Weight: 1}), world())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"ServiceEntry/out": map[string]any{"addresses": []any{"192.0.2.1"}}}
	if d := cmp.Diff(want, shown(r.Objects, "addresses")); d != "" {
		t.Error(d)
	}
}

func TestTargetsOfOneNumber(t *testing.T) {
	o := one("dual")
	o.Services[0].Ports = append(o.Services[0].Ports, scenario.Port{Port: 80, Target: 8080, Protocol: scenario.UDP})
	if _, err := Render(o, world()); err != nil {
		t.Errorf("one target for both protocols: %v", err)
	}
	o.Services[0].Ports[1].Target = 9090
	if _, err := Render(o, world()); !errors.Is(err, scenario.ErrNotExpressible) {
		t.Errorf("two targets: %v", err)
	}
}

func TestWaypointIsAGatewayAndRoutesAreAnHTTPRoute(t *testing.T) {
	w := world()
	w.Gateways = true
	w.Services["echo-v1"], w.Services["echo-v2"] = w.Services["dual"], w.Services["six"]
	o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1})
	o.Services[0].Waypoint, o.Services[0].Ports[0].Name = "way", "http"
	o.Services[0].Routes = []scenario.Route{
		{Header: "x-canary", Exact: "yes", Backends: []scenario.Backend{{Service: "echo-v2", Port: 80, Weight: 1}}},
		{Timeout: 1500 * time.Millisecond, Backends: []scenario.Backend{
			{Service: "echo-v1", Port: 80, Weight: 90}, {Service: "echo-v2", Port: 80, Weight: 10},
		}},
	}
	o.Waypoints = []scenario.Waypoint{{Name: "nobody"}}
	r, err := Render(o, w)
	if err != nil {
		t.Fatal(err)
	}
	backend := func(name string, weight int64) any {
		return map[string]any{"name": name, "port": int64(80), "weight": weight}
	}
	want := map[string]any{
		"Gateway/nobody": map[string]any{"gatewayClassName": "istio-waypoint"},
		"Gateway/way":    map[string]any{"gatewayClassName": "istio-waypoint"},
		"Service/dual":   map[string]any{},
		"HTTPRoute/dual": map[string]any{
			"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "dual"}},
			"rules": []any{
				map[string]any{
					"matches":     []any{map[string]any{"headers": []any{map[string]any{"type": "Exact", "name": "x-canary", "value": "yes"}}}},
					"backendRefs": []any{backend("echo-v2", 1)},
				},
				map[string]any{
					"timeouts":    map[string]any{"request": "1500ms"},
					"backendRefs": []any{backend("echo-v1", 90), backend("echo-v2", 10)},
				},
			},
		},
	}
	if d := cmp.Diff(want, shown(r.Objects, "gatewayClassName", "parentRefs", "rules")); d != "" {
		t.Error(d)
	}
	for _, o := range r.Objects {
		if got := o.GetLabels()[UseWaypoint]; (o.GetKind() == "Service") != (got == "way") {
			t.Errorf("%s %s has %s=%q", o.GetKind(), o.GetName(), UseWaypoint, got)
		}
	}
}

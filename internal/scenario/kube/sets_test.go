package kube

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// spec renders one service and returns what was asked for of each object.
func spec(t *testing.T, o scenario.Objects, fields ...string) map[string]any {
	t.Helper()
	r, err := Render(o, world())
	if err != nil {
		t.Fatal(err)
	}
	return shown(r.Objects, fields...)
}

func TestLocality(t *testing.T) {
	near := []intent.Scope{intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone}
	for _, c := range []struct {
		balance scenario.Balance
		want    map[string]any
	}{
		{scenario.Balance{}, map[string]any{}},
		{
			scenario.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}},
			map[string]any{"internalTrafficPolicy": "Local"},
		},
		{scenario.Balance{Mode: intent.Failover, Prefer: near}, map[string]any{"trafficDistribution": "PreferClose"}},
		{
			scenario.Balance{Mode: intent.Failover, Prefer: append(near[:3:3], intent.ScopeSubzone, intent.ScopeNode)},
			map[string]any{"trafficDistribution": "PreferSameNode"},
		},
	} {
		o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1})
		o.Services[0].Balance = c.balance
		got := spec(t, o, "internalTrafficPolicy", "trafficDistribution")
		if d := cmp.Diff(map[string]any{"Service/dual": c.want}, got); d != "" {
			t.Errorf("%v: %s", c.balance, d)
		}
	}
}

// TestPartlyKnownPods: of a pod that has more addresses than services are to know those
// that they are make entries, and so do the others of its service: no Pod is selected.
func TestPartlyKnownPods(t *testing.T) {
	o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1}, scenario.Endpoint{Pod: "v2", Weight: 1})
	w := world()
	if o := o.Services[0]; byEntries(o, w) || !Selects(o, w) {
		t.Error("pods that are known whole are no entries")
	}
	v1 := w.Pods["v1"]
	v1.Addresses, v1.Partly = v1.Addresses[:1], true
	w.Pods["v1"] = v1
	r, err := Render(o, w)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"Service/dual":             map[string]any{},
		"WorkloadEntry/dual-v1-v4": map[string]any{"address": "10.1.1.1", "weight": int64(1)},
		"WorkloadEntry/dual-v2-v4": map[string]any{"address": "10.2.1.1", "weight": int64(1)},
		"WorkloadEntry/dual-v2-v6": map[string]any{"address": "fd00:10:0:2::100", "weight": int64(1)},
	}
	if d := cmp.Diff(want, shown(r.Objects, "address", "weight")); d != "" || len(r.Labels) > 0 || Selects(o.Services[0], w) {
		t.Errorf("labels %v: %s", r.Labels, d)
	}
}

func TestHeadlessAndUnready(t *testing.T) {
	o := one("alone", scenario.Endpoint{Pod: "v1", Weight: 1})
	o.Services[0].Headless, o.Services[0].PublishNotReady = true, true
	o.Unready = []string{"v1"}
	want := map[string]any{"Service/alone": map[string]any{"clusterIP": "None", "publishNotReadyAddresses": true}}
	if d := cmp.Diff(want, spec(t, o, "clusterIP", "clusterIPs", "publishNotReadyAddresses")); d != "" {
		t.Error(d)
	}
	if r, err := Render(o, world()); err != nil || !cmp.Equal(r.Unready, o.Unready) {
		t.Errorf("unready %v, %v", r.Unready, err)
	}
}

func TestTargetsByName(t *testing.T) {
	o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1}, scenario.Endpoint{Pod: "v2", Weight: 1})
	o.Services[0].Ports = []scenario.Port{{Port: 80, TargetName: "web"}}
	port := map[string]any{"name": "tcp-80", "port": int64(80), "targetPort": "web", "protocol": "TCP"}
	want := map[string]any{"Service/dual": map[string]any{"ports": []any{port}}}
	if d := cmp.Diff(want, spec(t, o, "ports")); d != "" {
		t.Error(d)
	}
	// An entry has the numbers of its pod.
	o = one("six", scenario.Endpoint{Pod: "v1", Weight: 9}, scenario.Endpoint{Pod: "v2", Weight: 1})
	o.Services[0].Ports = []scenario.Port{{Port: 80, TargetName: "web"}}
	got := spec(t, o, "ports")
	if d := cmp.Diff(map[string]any{"ports": map[string]any{"web": int64(8080)}}, got["WorkloadEntry/six-v1-v4"]); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]any{}, got["WorkloadEntry/six-v2-v4"]); d != "" {
		t.Errorf("a pod without the port: %s", d)
	}
}

func TestOwnTargetsAreEntries(t *testing.T) {
	o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1, Ports: map[uint16]uint16{80: 9090}}, scenario.Endpoint{Pod: "v2", Weight: 1})
	got := spec(t, o, "ports")
	if d := cmp.Diff(map[string]any{"ports": map[string]any{"tcp-80": int64(9090)}}, got["WorkloadEntry/dual-v1-v4"]); d != "" {
		t.Error(d)
	}
	if _, there := got["ServiceEntry/dual"]; !there {
		t.Errorf("no ServiceEntry, but %v", got)
	}
}

func TestNotExpressible(t *testing.T) {
	for name, change := range map[string]func(*scenario.Objects){
		"strict by zone": func(o *scenario.Objects) {
			o.Services[0].Balance = scenario.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeZone}}
		},
		"passthrough": func(o *scenario.Objects) { o.Services[0].Balance.Mode = intent.Passthrough },
		"by name":     func(o *scenario.Objects) { o.Services[0].Endpoints[0].ByName = true },
		"an entry that is not ready": func(o *scenario.Objects) {
			o.Services[0].Endpoints[0].Weight, o.Unready = 2, []string{"v1"}
		},
		"an entry by locality": func(o *scenario.Objects) {
			o.Services[0].Endpoints[0].Weight = 2
			o.Services[0].Balance = scenario.Balance{Mode: intent.Strict, Prefer: []intent.Scope{intent.ScopeNode}}
		},
		"a name in a ServiceEntry": func(o *scenario.Objects) {
			o.Services[0].Name, o.Services[0].Ports[0] = "out", scenario.Port{Port: 80, TargetName: "web"}
		},
		"publishing in a ServiceEntry": func(o *scenario.Objects) {
			o.Services[0].Name, o.Services[0].PublishNotReady = "out", true
		},
	} {
		o := one("dual", scenario.Endpoint{Pod: "v1", Weight: 1}, scenario.Endpoint{Pod: "v2", Weight: 1})
		if _, err := Render(o, world()); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if _, err := Render(o, world()); !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

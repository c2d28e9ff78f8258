package file

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/duomesh/duomesh/dataplane/intent"
)

const mesh = `version: 1
services:
  - {name: s, ports: [{port: 80}], endpoints: [{workload: a}]}
  - {name: t, ports: [{port: 81}], endpoints: [{workload: b, ports: {81: 82}}], waypoint: w}
  - {name: u, ports: [{port: 83}]}
workloads:
  - {name: a, addresses: [10.0.0.1]}
  - {name: b, addresses: [10.0.0.2], waypoint: w}
  - {name: c, addresses: [10.0.0.3], waypoint: x}
waypoints:
  - {name: w, endpoints: [{workload: c}]}
  - {name: x, endpoints: [{workload: b}]}
policies: [{name: p, workloads: [a]}, {name: q}]
routes: [{service: u, backends: [{service: s, port: 80}]}, {service: u, backends: [{service: t, port: 81}]}]
`

// kept names the values of next that are last's own.
func kept(last, next intent.Snapshot) string {
	old := map[any]bool{}
	each(last, func(_ string, v any) { old[v] = true })
	var names []string
	each(next, func(name string, v any) {
		if old[v] {
			names = append(names, name)
		}
	})
	return strings.Join(names, " ")
}

func each(s intent.Snapshot, f func(name string, v any)) {
	for _, v := range s.Services {
		f(v.Name, v)
	}
	for _, v := range s.Workloads {
		f(v.Name, v)
	}
	for _, v := range s.Policies {
		f(v.Name, v)
	}
	for _, v := range s.Routes {
		f("route-to-"+v.Backends[0].Service, v)
	}
}

func TestShareKeepsWhatIsUnchanged(t *testing.T) {
	const routes = " route-to-default/s route-to-default/t"
	for _, c := range []struct{ name, from, to, want string }{
		{"nothing", "", "", "s t u a b c p q" + routes},
		{"a service", "port: 83", "port: 84", "s t a b c p q" + routes},
		{"a workload without waypoint", "10.0.0.1", "10.0.0.9", "t u b c p q" + routes},
		{"an endpoint's own port", "81: 82", "81: 83", "s u a b c p q" + routes},
		{"a workload in the circle", "10.0.0.3", "10.0.0.9", "s u a p q" + routes},
		{"a waypoint's port", "{name: w,", "{name: w, port: 7,", "s u a p q" + routes},
		{"an order", "{name: a, addresses: [10.0.0.1]}\n  - {name: b, addresses: [10.0.0.2], waypoint: w}",
			"{name: b, addresses: [10.0.0.2], waypoint: w}\n  - {name: a, addresses: [10.0.0.1]}", "s t u b a c p q" + routes},
		{"a policy", "{name: q}", "{name: q, deny: true}", "s t u a b c p" + routes},
		{"a route", "port: 81}]}]", "port: 81, weight: 2}]}]", "s t u a b c p q route-to-default/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := mustParse(t, mesh)
			text := strings.Replace(mesh, c.from, c.to, 1)
			if text == mesh && c.from != "" {
				t.Fatal("the change changes nothing")
			}
			next := share(last, mustParse(t, text))
			if got := kept(last, next); got != c.want {
				t.Errorf("kept %q, want %q", got, c.want)
			}
			if diff := cmp.Diff(mustParse(t, text), next, sameValues); diff != "" {
				t.Errorf("sharing changed values (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(mustParse(t, mesh), last, sameValues); diff != "" {
				t.Errorf("sharing changed the last Snapshot (-want +got):\n%s", diff)
			}
			closed(t, next)
		})
	}
}

// closed fails when a Snapshot refers to a workload or waypoint that is not
// the one that it lists.
func closed(t interface{ Errorf(string, ...any) }, s intent.Snapshot) {
	listed := map[*intent.Workload]bool{}
	for _, w := range s.Workloads {
		listed[w] = true
	}
	named := map[string]*intent.Waypoint{}
	way := func(w *intent.Waypoint) {
		if w == nil {
			return
		}
		if other := named[w.Name]; other != nil && other != w {
			t.Errorf("two values of waypoint %s", w.Name)
		}
		named[w.Name] = w
		for _, e := range w.Endpoints {
			if !listed[e.Workload] {
				t.Errorf("waypoint %s refers to a workload %s that is not listed", w.Name, e.Workload.UID)
			}
		}
	}
	for _, w := range s.Workloads {
		way(w.Waypoint)
	}
	for _, svc := range s.Services {
		way(svc.Waypoint)
		for _, e := range svc.Endpoints {
			if !listed[e.Workload] {
				t.Errorf("service %s refers to a workload %s that is not listed", svc.Key(), e.Workload.UID)
			}
		}
	}
}

func TestShareIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, err := Marshal(anySnapshot(t))
		if err != nil {
			t.Fatal(err)
		}
		parse := func(text []byte) intent.Snapshot {
			s, err := Parse("x.yaml", text)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		changed := parse(first)
		for _, w := range some(t, changed.Workloads) {
			w.Weight++
		}
		for _, svc := range some(t, changed.Services) {
			svc.Canonical = !svc.Canonical
		}
		second, err := Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		last := parse(first)
		next := share(last, parse(second))
		if diff := cmp.Diff(parse(second), next, sameValues); diff != "" {
			t.Fatalf("sharing changed values (-want +got):\n%s", diff)
		}
		closed(t, next)
		shared(t, last, next)
	})
}

// shared fails when two equal values are not one, or two that differ are.
func shared(t *rapid.T, last, next intent.Snapshot) {
	for _, w := range next.Workloads {
		for _, old := range last.Workloads {
			if w.UID == old.UID && cmp.Equal(w, old, sameValues) != (w == old) {
				t.Fatalf("workload %s: equal %t, shared %t", w.UID, w != old, w == old)
			}
		}
	}
	for _, svc := range next.Services {
		for _, old := range last.Services {
			if svc.Key() == old.Key() && cmp.Equal(svc, old, sameValues) != (svc == old) {
				t.Fatalf("service %s: equal %t, shared %t", svc.Key(), svc != old, svc == old)
			}
		}
	}
}

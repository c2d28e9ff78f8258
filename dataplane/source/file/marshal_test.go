package file

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// anyText draws names that YAML could take for something else, too.
func anyText(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.StringMatching(`[a-z][a-z0-9-]{0,8}`),
		rapid.SampledFrom([]string{
			"true", "no", "null", "~", "12", "0x1f", "010", "1e3", ".inf", "-", "- a", "a: b", "a #b", "*a", "&a", "!a",
			"%a", "@a", "`a", "{", "[a]", "'", `"`, `\`, `\n`, " a ", "a,b", "?", "|", ">", "<<", "2024-01-01", "ä", "日本", "1:30",
		}),
		rapid.Map(rapid.String(), func(s string) string {
			return strings.Map(func(c rune) rune {
				if strictyaml.Printable(string(c)) {
					return c
				}
				return '-'
			}, s)
		}),
	).Draw(t, label)
}

func anyName(t *rapid.T, label string) string { return "n" + anyText(t, label) }

func anyAddr(t *rapid.T) netip.Addr {
	if rapid.Bool().Draw(t, "v6") {
		var b [16]byte
		copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr"))
		b[0] = 0xfd
		return netip.AddrFrom16(b)
	}
	b := rapid.SliceOfN(rapid.Byte(), 3, 3).Draw(t, "addr")
	return netip.AddrFrom4([4]byte{10, b[0], b[1], b[2]})
}

// anySnapshot draws a Snapshot of the kind that Parse can give, with waypoints
// whose replicas have waypoints.
func anySnapshot(t *rapid.T) intent.Snapshot {
	var s intent.Snapshot
	for i := range rapid.IntRange(0, 5).Draw(t, "workloads") {
		s.Workloads = append(s.Workloads, anyWorkload(t, i))
	}
	var ways []*intent.Waypoint
	for i := range rapid.IntRange(0, 3).Draw(t, "waypoints") {
		ways = append(ways, &intent.Waypoint{
			Name:      anyText(t, "waypoint") + "-" + strconv.Itoa(i),
			Codec:     rapid.SampledFrom([]intent.Codec{intent.OriginalDst, intent.ProxyV2, intent.KmeshTLV}).Draw(t, "codec"),
			Port:      rapid.Uint16Min(1).Draw(t, "port"),
			Endpoints: anyEndpoints(t, s.Workloads, nil),
		})
	}
	for _, w := range s.Workloads {
		w.Waypoint = one(t, ways)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "services") {
		svc := anyService(t, i, s.Workloads)
		svc.Waypoint = one(t, ways)
		s.Services = append(s.Services, svc)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "policies") {
		p := &intent.Policy{Name: anyName(t, "policy") + strconv.Itoa(i), Namespace: anyText(t, "ns"), Deny: rapid.Bool().Draw(t, "deny")}
		for _, w := range some(t, s.Workloads) {
			p.Workloads = append(p.Workloads, w.UID)
		}
		s.Policies = append(s.Policies, p)
	}
	for range rapid.IntRange(0, 2).Draw(t, "routes") {
		if len(s.Services) > 0 {
			s.Routes = append(s.Routes, anyRoute(t, s.Services))
		}
	}
	return s
}

func anyWorkload(t *rapid.T, i int) *intent.Workload {
	w := &intent.Workload{
		Name: anyName(t, "name") + strconv.Itoa(i), Namespace: anyText(t, "ns"),
		Addresses: rapid.SliceOfN(rapid.Custom(anyAddr), 0, 3).Draw(t, "addresses"),
		Weight:    rapid.Uint32().Draw(t, "weight"),
		Node:      anyText(t, "node"), Network: anyText(t, "network"), Cluster: anyText(t, "cluster"),
		Locality: intent.Locality{
			Region: anyText(t, "region"), Zone: anyText(t, "zone"), Subzone: anyText(t, "subzone"),
		},
		Unhealthy: rapid.Bool().Draw(t, "unhealthy"), HostNetwork: rapid.Bool().Draw(t, "host"),
		Gateway: rapid.Bool().Draw(t, "gateway"), Unprotected: rapid.Bool().Draw(t, "unprotected"),
		Hostname: rapid.SampledFrom([]string{"", "db.example.com"}).Draw(t, "name of addresses"),
	}
	switch rapid.IntRange(0, 2).Draw(t, "uid") {
	case 0:
		w.UID = defaultUID(w.Namespace, w.Name)
	case 1:
		w.UID = anyText(t, "uid") + strconv.Itoa(i)
	case 2:
		w.UID, w.Name, w.Locality = "u"+strconv.Itoa(i), "", intent.Locality{}
	}
	return w
}

func anyService(t *rapid.T, i int, workloads []*intent.Workload) *intent.Service {
	svc := &intent.Service{
		Name: anyName(t, "name") + strconv.Itoa(i), Namespace: anyText(t, "ns"), Hostname: anyText(t, "host"),
		Addresses: rapid.SliceOfN(rapid.Custom(anyAddr), 0, 3).Draw(t, "addresses"),
		Canonical: rapid.Bool().Draw(t, "canonical"),
		Balance:   anyBalance(t),
	}
	for _, p := range rapid.SliceOfNDistinct(rapid.Uint16Min(1), 0, 3, rapid.ID[uint16]).Draw(t, "ports") {
		svc.Ports = append(svc.Ports, intent.Port{
			Port: p, Target: rapid.SampledFrom([]uint16{0, p, 8080}).Draw(t, "target"), Name: anyText(t, "port name"),
			Protocol: rapid.SampledFrom([]intent.Protocol{intent.TCP, intent.UDP}).Draw(t, "protocol"),
		})
	}
	svc.Endpoints = anyEndpoints(t, workloads, svc.Ports)
	return svc
}

func anyBalance(t *rapid.T) intent.Balance {
	b := intent.Balance{
		Mode:           rapid.SampledFrom([]intent.Mode{intent.Any, intent.Passthrough, intent.Strict, intent.Failover}).Draw(t, "mode"),
		AllowUnhealthy: rapid.Bool().Draw(t, "allow unhealthy"),
	}
	if b.Mode == intent.Strict || b.Mode == intent.Failover {
		b.Prefer = rapid.SliceOfN(rapid.SampledFrom([]intent.Scope{intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeNode}), 1, 3).Draw(t, "prefer")
	}
	return b
}

func anyEndpoints(t *rapid.T, workloads []*intent.Workload, ports []intent.Port) []intent.Endpoint {
	var all []intent.Endpoint
	for _, w := range some(t, workloads) {
		e := intent.Endpoint{Workload: w}
		for _, p := range some(t, ports) {
			if e.Ports == nil {
				e.Ports = map[uint16]uint16{}
			}
			e.Ports[p.Port] = rapid.Uint16Min(1).Draw(t, "own port")
		}
		all = append(all, e)
	}
	return all
}

func anyRoute(t *rapid.T, services []*intent.Service) *intent.Route {
	r := &intent.Route{
		Service: rapid.SampledFrom(services).Draw(t, "service").Key(),
		Timeout: time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "timeout")),
	}
	if rapid.Bool().Draw(t, "match") {
		r.Match = intent.HeaderMatch{Name: anyName(t, "header"), Exact: anyText(t, "exact")}
	}
	for range rapid.IntRange(1, 3).Draw(t, "backends") {
		r.Backends = append(r.Backends, intent.Backend{
			Service: rapid.SampledFrom(services).Draw(t, "backend").Key(),
			Port:    rapid.Uint16Min(1).Draw(t, "port"), Weight: rapid.Uint32().Draw(t, "weight"),
		})
	}
	return r
}

// some draws a part of all, in order; one draws a value of all, or none.
func some[T any](t *rapid.T, all []T) []T {
	var part []T
	for _, v := range all {
		if rapid.Bool().Draw(t, "in") {
			part = append(part, v)
		}
	}
	return part
}

func one[T any](t *rapid.T, all []*T) *T {
	if part := some(t, all); len(part) > 0 {
		return part[0]
	}
	return nil
}

func TestMarshalParseGivesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySnapshot(t)
		text, err := Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("x.yaml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(s, got, sameValues); diff != "" {
			t.Fatalf("(-want +got):\n%s\n%s", diff, text)
		}
	})
}

func TestMarshalRefuses(t *testing.T) {
	listed := &intent.Workload{UID: "a", Name: "a"}
	in := func(svc intent.Service) intent.Snapshot {
		svc.Name = "s"
		return intent.Snapshot{Services: []*intent.Service{&svc}, Workloads: []*intent.Workload{listed}}
	}
	way := func(port uint16) *intent.Waypoint {
		return &intent.Waypoint{Name: "w", Codec: intent.ProxyV2, Port: port}
	}
	for want, s := range map[string]intent.Snapshot{
		"service /s: endpoint b is not among the workloads": in(intent.Service{
			Endpoints: []intent.Endpoint{{Workload: &intent.Workload{UID: "b"}}}}),
		"service /s: endpoint a is not among the workloads": in(intent.Service{
			Endpoints: []intent.Endpoint{{Workload: &intent.Workload{UID: "a"}}}}),
		"services[0].endpoints[0].ports.80: the service declares no port 80": in(intent.Service{
			Endpoints: []intent.Endpoint{{Workload: listed, Ports: map[uint16]uint16{80: 81}}}}),
		"services[0].balance: mode strict needs prefer":             in(intent.Service{Balance: intent.Balance{Mode: intent.Strict}}),
		`service /s: "a\nb" has control characters or is not UTF-8`: in(intent.Service{Hostname: "a\nb"}),
		`service /s: "\xff" has control characters or is not UTF-8`: in(intent.Service{Hostname: "\xff"}),
		"service /s: name of its waypoint is empty": in(intent.Service{
			Waypoint: &intent.Waypoint{Codec: intent.ProxyV2, Port: 1}}),
		"service /s: another waypoint is named w, too": {
			Services:  []*intent.Service{{Name: "s", Waypoint: way(1)}},
			Workloads: []*intent.Workload{{UID: "a", Waypoint: way(2)}},
		},
		"policy /p: z is not among the workloads":  {Policies: []*intent.Policy{{Name: "p", Workloads: []string{"z"}}}},
		"policies[1]: policy /p is declared twice": {Policies: []*intent.Policy{{Name: "p"}, {Name: "p"}}},
		"service /s: port 0 cannot be declared":    in(intent.Service{Ports: []intent.Port{{Protocol: intent.TCP}}}),
	} {
		if _, err := Marshal(s); err == nil || err.Error() != "write intent: "+want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

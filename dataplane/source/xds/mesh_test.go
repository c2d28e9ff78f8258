package xds

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/source/file"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

var update = flag.Bool("update", false, "write the golden files anew")

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// recorded is an answer as a real istiod sent it.
func recorded(tb testing.TB, name string) istiod.Response {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	must(tb, err)
	var answer discovery.DeltaDiscoveryResponse
	must(tb, proto.Unmarshal(raw, &answer))
	r := istiod.Response{TypeURL: answer.TypeUrl, Removed: answer.RemovedResources}
	for _, res := range answer.Resources {
		r.Resources = append(r.Resources, istiod.Resource{Name: res.Name, Version: res.Version, Body: res.Resource})
	}
	return r
}

// taken is a mesh of what a real istiod sent, of which nothing is refused.
func taken(tb testing.TB) *mesh {
	tb.Helper()
	m := newMesh(Config{})
	for _, name := range []string{"ztunnel-address.delta.pb", "ztunnel-authorization.delta.pb"} {
		if refused := m.take(recorded(tb, name)); len(refused) > 0 {
			tb.Fatalf("of what istiod sent, this is refused: %v", refused)
		}
	}
	return m
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("%s differs (go test -update writes it anew):\n%s", path, got)
	}
}

func TestRecordedMesh(t *testing.T) {
	m := taken(t)
	s := m.snapshot()
	must(t, s.Validate())
	text, err := file.Marshal(s)
	must(t, err)
	golden(t, "mesh.yaml", text)
	golden(t, "unused.txt", []byte(strings.Join(m.unused(), "\n")+"\n"))
}

func find(t *testing.T, s intent.Snapshot, name string) *intent.Service {
	t.Helper()
	for _, svc := range s.Services {
		if svc.Name == name {
			return svc
		}
	}
	t.Fatalf("no service %s", name)
	return nil
}

func wrap(t *testing.T, name string, a *workloadapi.Address) istiod.Resource {
	t.Helper()
	body, err := anypb.New(a)
	must(t, err)
	return istiod.Resource{Name: name, Version: "2", Body: body}
}

func pod(uid, ip string, services ...string) *workloadapi.Workload {
	w := &workloadapi.Workload{Uid: uid, Name: uid, Namespace: "demo", Services: map[string]*workloadapi.PortList{}}
	if ip != "" {
		a := netip.MustParseAddr(ip)
		w.Addresses = [][]byte{a.AsSlice()}
	}
	for _, s := range services {
		w.Services[s] = &workloadapi.PortList{Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}}}
	}
	return w
}

func ofWorkload(w *workloadapi.Workload) *workloadapi.Address {
	return &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: w}}
}

func ofService(s *workloadapi.Service) *workloadapi.Address {
	return &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}}
}

func bytesOf(ip string) []byte { return netip.MustParseAddr(ip).AsSlice() }

// nameIn is the name under which istiod sends it.
func nameIn(a *workloadapi.Address) string {
	if s := a.GetService(); s != nil {
		return s.Namespace + "/" + s.Hostname
	}
	return a.GetWorkload().GetUid()
}

const fortio = "demo/fortio.demo.svc.cluster.local"

// An answer changes what it names and the services behind which that is; all else
// is shared with the Snapshot before it.
func TestOnlyWhatIsNamedChanges(t *testing.T) {
	m := taken(t)
	before := m.snapshot()
	n := len(find(t, before, "fortio").Endpoints)
	added := istiod.Response{TypeURL: addressType, Resources: []istiod.Resource{
		wrap(t, "pod-9", ofWorkload(pod("pod-9", "10.244.9.9", fortio))),
	}}
	if refused := m.take(added); len(refused) > 0 {
		t.Fatal(refused)
	}
	after := m.snapshot()
	for i, svc := range after.Services {
		if changed := svc != before.Services[i]; changed != (svc.Name == "fortio") {
			t.Errorf("service %s changed: %t", svc.Name, changed)
		}
	}
	if got := len(find(t, after, "fortio").Endpoints); got != n+1 {
		t.Errorf("%d endpoints, want %d", got, n+1)
	}
	// It moves to another service, and goes.
	moved := added
	moved.Resources = []istiod.Resource{wrap(t, "pod-9", ofWorkload(pod("pod-9", "10.244.9.9", "demo/echo.demo.svc.cluster.local")))}
	m.take(moved)
	if got := len(find(t, m.snapshot(), "fortio").Endpoints); got != n {
		t.Errorf("after it moved: %d endpoints, want %d", got, n)
	}
	m.take(istiod.Response{TypeURL: addressType, Removed: []string{"pod-9", fortio, "never there"}})
	last := m.snapshot()
	if len(last.Workloads) != len(before.Workloads) || len(last.Services) != len(before.Services)-1 {
		t.Errorf("%d workloads and %d services are left", len(last.Workloads), len(last.Services))
	}
}

// Workloads may come before their service, and outlive it.
func TestOrderDoesNotMatter(t *testing.T) {
	m := newMesh(Config{})
	service := &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
		Name: "late", Namespace: "demo", Hostname: "late.demo.svc.cluster.local",
		Addresses: []*workloadapi.NetworkAddress{{Address: []byte{10, 96, 0, 1}}},
		Ports:     []*workloadapi.Port{{ServicePort: 80}},
	}}}
	key := "demo/late.demo.svc.cluster.local"
	take := func(r istiod.Response) {
		t.Helper()
		r.TypeURL = addressType
		if refused := m.take(r); len(refused) > 0 {
			t.Fatal(refused)
		}
	}
	take(istiod.Response{Resources: []istiod.Resource{wrap(t, "a", ofWorkload(pod("a", "10.1.0.1", key)))}})
	take(istiod.Response{Resources: []istiod.Resource{wrap(t, key, service)}})
	for range 2 {
		svc := find(t, m.snapshot(), "late")
		if len(svc.Endpoints) != 1 || svc.Endpoints[0].Ports[80] != 8080 || len(svc.Ports) != 2 {
			t.Errorf("%+v", svc)
		}
		take(istiod.Response{Removed: []string{key}})
		take(istiod.Response{Resources: []istiod.Resource{wrap(t, key, service)}})
	}
}

// What makes no sense is refused by name, and the last good one stays.
func TestRefused(t *testing.T) {
	m := taken(t)
	before := len(m.snapshot().Workloads)
	service := func(change func(*workloadapi.Service)) *workloadapi.Address {
		s := &workloadapi.Service{Name: "s", Namespace: "demo", Hostname: "s.demo.svc.cluster.local"}
		change(s)
		return &workloadapi.Address{Type: &workloadapi.Address_Service{Service: s}}
	}
	unknownStatus, unknownMode, short := pod("a", "10.1.0.1"), pod("b", "10.1.0.1"), pod("c", "10.1.0.1")
	unknownStatus.Status, unknownMode.NetworkMode, short.Addresses = 9, 9, [][]byte{{1, 2, 3}}
	noPort := pod("d", "10.1.0.1", fortio)
	noPort.Services[fortio].Ports[0].TargetPort = 70000
	for want, a := range map[string]*workloadapi.Address{
		"without a uid":            ofWorkload(pod("", "10.1.0.1")),
		"status 9 is not known":    ofWorkload(unknownStatus),
		"network mode 9":           ofWorkload(unknownMode),
		"an address of 3 bytes":    ofWorkload(short),
		"port 80 to 70000 is none": ofWorkload(noPort),
		"neither a workload nor a": {},
		"without a hostname":       service(func(s *workloadapi.Service) { s.Hostname = "" }),
		"mode 9 is not known":      service(func(s *workloadapi.Service) { s.LoadBalancing = &workloadapi.LoadBalancing{Mode: 9} }),
		"scope 0 is not known": service(func(s *workloadapi.Service) {
			s.LoadBalancing = &workloadapi.LoadBalancing{RoutingPreference: make([]workloadapi.LoadBalancing_Scope, 1)}
		}),
		"health policy 9":       service(func(s *workloadapi.Service) { s.LoadBalancing = &workloadapi.LoadBalancing{HealthPolicy: 9} }),
		"port 0 to 0 is none":   service(func(s *workloadapi.Service) { s.Ports = []*workloadapi.Port{{}} }),
		"an address of 0 bytes": service(func(s *workloadapi.Service) { s.Addresses = []*workloadapi.NetworkAddress{{}} }),
		"127.0.0.1":             ofWorkload(pod("e", "127.0.0.1")),
	} {
		name := nameIn(a)
		refused := m.take(istiod.Response{TypeURL: addressType, Resources: []istiod.Resource{wrap(t, name, a)}})
		if err := refused[name]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", refused, want)
		}
	}
	noise := istiod.Resource{Name: "noise", Body: &anypb.Any{TypeUrl: addressType, Value: []byte{0xff, 0xff}}}
	if refused := m.take(istiod.Response{TypeURL: addressType, Resources: []istiod.Resource{noise, {Name: "empty"}}}); len(refused) != 2 {
		t.Errorf("refused: %v", refused)
	}
	if got := len(m.snapshot().Workloads); got != before {
		t.Errorf("%d workloads, want the %d from before", got, before)
	}
}

func TestDetails(t *testing.T) {
	m := newMesh(Config{Network: "east"})
	one := uint32(24)
	svc := &workloadapi.Service{
		Name: "entry", Namespace: "demo", Hostname: "two.example.com",
		Addresses: []*workloadapi.NetworkAddress{
			{Network: "west", Address: []byte{10, 1, 1, 1}}, {Network: "east", Address: []byte{10, 2, 2, 2}},
			{Address: []byte{10, 3, 3, 0}, Length: &one},
		},
		LoadBalancing: &workloadapi.LoadBalancing{
			Mode: workloadapi.LoadBalancing_FAILOVER, HealthPolicy: workloadapi.LoadBalancing_ALLOW_ALL,
			RoutingPreference: []workloadapi.LoadBalancing_Scope{workloadapi.LoadBalancing_ZONE},
		},
	}
	res := wrap(t, "demo/two.example.com", &workloadapi.Address{Type: &workloadapi.Address_Service{Service: svc}})
	if refused := m.take(istiod.Response{TypeURL: addressType, Resources: []istiod.Resource{res}}); len(refused) > 0 {
		t.Fatal(refused)
	}
	got := m.snapshot().Services[0]
	if got.Name != "two.example.com" || len(got.Addresses) != 1 || got.Addresses[0].String() != "10.2.2.2" ||
		got.Balance.Mode != intent.Failover || !got.Balance.AllowUnhealthy || got.Balance.Prefer[0] != intent.ScopeZone {
		t.Errorf("%+v", got)
	}
	if u := m.unused(); len(u) != 1 || !strings.Contains(u[0], "10.3.3.0/24: ranges are not redirected") {
		t.Errorf("%q", u)
	}
}

package l7_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/relay"
	"github.com/duomesh/duomesh/dataplane/l7/render"
)

// The embedded control plane says for the same rules what istiod was recorded to say,
// as Envoy gets it: the recorded HTTPRoute of echo (90/10) and VirtualService of fortio
// (a header, then 90/10 within 5 s).
func TestRenderedIsWhatIstiodSendsForTheSameRules(t *testing.T) {
	theirs := fromRecording(t)
	ours := rendered(t)
	t.Run("routes", func(t *testing.T) { sameRoutes(t, theirs, ours) })
	t.Run("chains", func(t *testing.T) { sameChains(t, theirs, ours) })
	t.Run("clusters", func(t *testing.T) { sameClusters(t, theirs, ours) })
}

func fromRecording(t *testing.T) ads.State {
	t.Helper()
	tr, err := relay.NewTransformer(relay.Ports{Port: l7.HandOffPort})
	if err != nil {
		t.Fatal(err)
	}
	view, err := tr.Transform(recorded(t, "listener"))
	if err != nil {
		t.Fatal(err)
	}
	state := ads.State{ads.Listeners: view.Listeners, ads.Routes: view.Routes, ads.Clusters: {}}
	for name, a := range recorded(t, "cluster") {
		state[ads.Clusters][name] = ads.BodyOf(a)
	}
	return state
}

func recorded(t *testing.T, kind string) map[string]*anypb.Any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("relay", "testdata", "waypoint-"+kind+".delta.pb"))
	if err != nil {
		t.Fatal(err)
	}
	var m discovery.DeltaDiscoveryResponse
	if err := proto.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	all := map[string]*anypb.Any{}
	for _, r := range m.Resources {
		all[r.Name] = r.Resource
	}
	return all
}

// sameRules is the recorded mesh as far as intent can say it. Subsets of a service are
// services of their own there.
func sameRules() intent.Snapshot {
	wp := &intent.Waypoint{Name: "demo/waypoint", Codec: intent.OriginalDst, Port: l7.HandOffPort}
	service := func(name, vip string) *intent.Service {
		return &intent.Service{
			Name: name, Namespace: "demo", Hostname: name + ".demo.svc.cluster.local",
			Addresses: []netip.Addr{netip.MustParseAddr(vip)}, Waypoint: wp,
			Ports: []intent.Port{{Port: 80, Target: 8080, Name: "http", Protocol: intent.TCP}},
		}
	}
	fortio := service("fortio", fortioVIP)
	fortio.Ports = append(fortio.Ports, intent.Port{Port: 8078, Target: 8078, Name: "tcp", Protocol: intent.TCP})
	to := func(name string, weight uint32) intent.Backend {
		return intent.Backend{Service: "demo/" + name, Port: 80, Weight: weight}
	}
	return intent.Snapshot{
		Services: []*intent.Service{
			service("echo", echoVIP), service("echo-v1", "10.96.10.21"), service("echo-v2", "10.96.10.22"), fortio,
		},
		Routes: []*intent.Route{
			{Service: "demo/echo", Backends: []intent.Backend{to("echo-v1", 90), to("echo-v2", 10)}},
			{Service: "demo/fortio", Match: intent.HeaderMatch{Name: "x-canary", Exact: "yes"}, Backends: []intent.Backend{to("echo-v2", 1)}},
			{Service: "demo/fortio", Backends: []intent.Backend{to("echo-v1", 90), to("echo-v2", 10)}, Timeout: 5 * time.Second},
		},
	}
}

func rendered(t *testing.T) ads.State {
	t.Helper()
	r, err := render.Config{Waypoint: "demo/waypoint", Port: l7.HandOffPort}.Render(sameRules())
	if err != nil {
		t.Fatal(err)
	}
	state, err := r.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// get unpacks a resource.
func get[T any, M interface {
	*T
	proto.Message
}](t *testing.T, s ads.State, typ, name string) M {
	t.Helper()
	body, there := s[typ][name]
	if !there {
		t.Fatalf("no %s %s", typ, name)
	}
	m := M(new(T))
	if err := body.Any.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func sameRoutes(t *testing.T, theirs, ours ads.State) {
	ignore := []cmp.Option{
		protocmp.Transform(),
		// For people and traces; Envoy's own default; the size of answers that routes
		// make themselves; a limit that gRPC clients may lower; the code for a cluster
		// that is not there.
		protocmp.IgnoreFields(&route.Route{}, "name", "metadata", "decorator"),
		protocmp.IgnoreFields(&route.RouteMatch{}, "case_sensitive"),
		protocmp.IgnoreFields(&route.RouteConfiguration{}, "max_direct_response_body_size_bytes"),
		protocmp.IgnoreFields(&route.RouteAction{}, "max_grpc_timeout", "cluster_not_found_response_code"),
	}
	for _, name := range []string{echoRoute, echoV1, echoV2} {
		want, got := get[route.RouteConfiguration](t, theirs, ads.Routes, name), get[route.RouteConfiguration](t, ours, ads.Routes, name)
		if diff := cmp.Diff(want, got, ignore...); diff != "" {
			t.Errorf("routes %s (- istiod, + ours):\n%s", name, diff)
		}
	}
	// The VirtualService names subsets and its own retries: neither can be said in intent.
	const fortio = "inbound-vip|80|http|fortio.demo.svc.cluster.local"
	ignore = append(ignore, protocmp.IgnoreFields(&route.RouteAction{}, "retry_policy", "cluster"),
		protocmp.IgnoreFields(&route.WeightedCluster_ClusterWeight{}, "name"))
	want, got := get[route.RouteConfiguration](t, theirs, ads.Routes, fortio), get[route.RouteConfiguration](t, ours, ads.Routes, fortio)
	if diff := cmp.Diff(want, got, ignore...); diff != "" {
		t.Errorf("routes of a VirtualService (- istiod, + ours):\n%s", diff)
	}
}

func sameChains(t *testing.T, theirs, ours ads.State) {
	their, our := get[listener.Listener](t, theirs, ads.Listeners, render.HandOffListener), get[listener.Listener](t, ours, ads.Listeners, render.HandOffListener)
	for _, name := range []string{echoRoute, echoV1, echoV2} {
		want, got := manager(t, their, name), manager(t, our, name)
		if diff := cmp.Diff(want, got, protocmp.Transform(),
			// Faults, CORS, traces: intent has none of them. The server header passes by
			// the metadata that the waypoint sends.
			protocmp.IgnoreFields(&hcm.HttpConnectionManager{}, "http_filters", "tracing", "server_name",
				"server_header_transformation", "request_id_extension", "rds")); diff != "" {
			t.Errorf("HTTP of %s (- istiod, + ours):\n%s", name, diff)
		}
	}
	want, got := ports(t, their), ports(t, our)
	for at, chain := range got {
		if want[at] != chain {
			t.Errorf("%s goes to chain %q, with istiod to %q", at, chain, want[at])
		}
	}
	if len(got) != 5 {
		t.Errorf("%d destinations, want 5: %v", len(got), got)
	}
}

func manager(t *testing.T, l *listener.Listener, chain string) *hcm.HttpConnectionManager {
	t.Helper()
	for _, c := range l.FilterChains {
		if c.Name != chain {
			continue
		}
		m := new(hcm.HttpConnectionManager)
		if err := c.Filters[len(c.Filters)-1].GetTypedConfig().UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Fatalf("no chain %s", chain)
	return nil
}

// ports are the chains by "address:port", as the matcher has them.
func ports(t *testing.T, l *listener.Listener) map[string]string {
	t.Helper()
	m := l.FilterChainMatcher
	for m.GetMatcherTree().GetCustomMatch() == nil {
		m = m.GetOnNoMatch().GetMatcher()
	}
	var by xds.IPMatcher
	if err := m.GetMatcherTree().GetCustomMatch().TypedConfig.UnmarshalTo(&by); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, r := range by.RangeMatchers {
		for port, on := range r.OnMatch.GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap() {
			all[r.Ranges[0].AddressPrefix+":"+port] = on.GetAction().Name
		}
	}
	return all
}

func sameClusters(t *testing.T, theirs, ours ads.State) {
	for _, name := range []string{echoRoute, echoV1, echoV2} {
		want, got := get[cluster.Cluster](t, theirs, ads.Clusters, name), get[cluster.Cluster](t, ours, ads.Clusters, name)
		if diff := cmp.Diff(want, got, protocmp.Transform(),
			// HBONE to the endpoint, and names for metrics.
			protocmp.IgnoreFields(&cluster.Cluster{}, "transport_socket", "metadata")); diff != "" {
			t.Errorf("cluster %s (- istiod, + ours):\n%s", name, diff)
		}
	}
}

package ads

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// envoy is one that has a stream to a Server, without the wire.
type envoy struct {
	t  *testing.T
	s  *Server
	st *stream
	// waits are the nonces that it has not answered.
	waits map[string]string
}

func connect(t *testing.T, s *Server) *envoy {
	t.Helper()
	e := &envoy{t: t, s: s, st: &stream{subs: map[string]*Subscription{}, verdicts: s.verdicts}, waits: map[string]string{}}
	s.mu.Lock()
	s.stream = e.st
	s.mu.Unlock()
	return e
}

func (e *envoy) ask(typ string, names ...string) {
	e.s.take(e.st, &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names})
}

// gets is what comes next, by type.
func (e *envoy) gets() map[string][]string {
	e.t.Helper()
	return e.getsAt(time.Now())
}

func (e *envoy) getsAt(now time.Time) map[string][]string {
	e.t.Helper()
	answers, _, _, err := e.s.next(e.st, now)
	if err != nil {
		e.t.Fatal(err)
	}
	got := map[string][]string{}
	for _, a := range answers {
		e.waits[a.TypeUrl] = a.Nonce
		for _, r := range a.Resources {
			got[a.TypeUrl] = append(got[a.TypeUrl], r.Name+"="+r.Version)
		}
	}
	return got
}

func (e *envoy) says(typ, refusal string) {
	q := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: e.waits[typ]}
	if refusal != "" {
		q.ErrorDetail = &status.Status{Message: refusal}
	}
	e.s.take(e.st, q)
}

func bodies(t *testing.T, all map[string]proto.Message) Set {
	t.Helper()
	out := Set{}
	for name, m := range all {
		b, err := NewBody(m)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

func eds(name string, concurrent uint32) *cluster.Cluster {
	return &cluster.Cluster{
		Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS}, AltStatName: strings.Repeat("x", int(concurrent)),
	}
}

// Envoy waits for the endpoints of a cluster that has changed, and does not ask for them.
func TestChangedClusterGetsItsEndpointsAgain(t *testing.T) {
	s := NewServer()
	s.Set(Clusters, bodies(t, map[string]proto.Message{"a": eds("a", 1), "b": eds("b", 1)}))
	s.Set(Endpoints, bodies(t, map[string]proto.Message{
		"a": &endpoint.ClusterLoadAssignment{ClusterName: "a"}, "b": &endpoint.ClusterLoadAssignment{ClusterName: "b"},
	}))
	e := connect(t, s)
	e.ask(Clusters)
	e.gets()
	e.ask(Endpoints, "a", "b")
	e.gets()
	e.says(Clusters, "")
	e.says(Endpoints, "")
	if got := e.gets(); len(got) != 0 {
		t.Fatalf("nothing has changed, and %v is sent", got)
	}
	s.Set(Clusters, bodies(t, map[string]proto.Message{"a": eds("a", 2), "b": eds("b", 1)}))
	got := e.gets()
	if len(got[Clusters]) != 1 || len(got[Endpoints]) != 1 || !strings.HasPrefix(got[Endpoints][0], "a=") {
		t.Errorf("a changed cluster brings %v, want it and its endpoints", got)
	}
}

// A route may lead to a cluster that is new: it is not sent before Envoy has its endpoints,
// unless nobody sends those.
func TestRoutesWaitForTheEndpointsOfNewClusters(t *testing.T) {
	clusters := func(names ...string) Set {
		all := map[string]proto.Message{}
		for _, name := range names {
			all[name] = eds(name, 1)
		}
		return bodies(t, all)
	}
	endpoints := func(names ...string) Set {
		all := map[string]proto.Message{}
		for _, name := range names {
			all[name] = &endpoint.ClusterLoadAssignment{ClusterName: name}
		}
		return bodies(t, all)
	}
	table := func(to string) Set {
		return bodies(t, map[string]proto.Message{"table": &route.RouteConfiguration{
			Name: "table", VirtualHosts: []*route.VirtualHost{{Name: to, Domains: []string{"*"}}},
		}})
	}
	s := NewServer()
	s.Set(Clusters, clusters("a"))
	s.Set(Endpoints, endpoints("a"))
	s.Set(Routes, table("a"))
	e := connect(t, s)
	for _, step := range []struct {
		typ   string
		names []string
	}{{Clusters, nil}, {Endpoints, []string{"a"}}, {Routes, []string{"table"}}} {
		e.ask(step.typ, step.names...)
		if got := e.gets(); len(got[step.typ]) != 1 {
			t.Fatalf("%s: %v", step.typ, got)
		}
		e.says(step.typ, "")
	}
	s.Set(Clusters, clusters("a", "b"))
	s.Set(Routes, table("b"))
	if got := e.gets(); len(got[Clusters]) != 1 || len(got[Routes]) != 0 {
		t.Fatalf("before the cluster is taken: %v", got)
	}
	begun := time.Now()
	e.ask(Endpoints, "b")
	e.says(Clusters, "")
	if got := e.gets(); len(got) != 0 {
		t.Fatalf("before there are endpoints: %v", got)
	}
	late := begun.Add(2 * coldTime)
	if got := e.getsAt(late); len(got[Routes]) != 1 {
		t.Errorf("where nobody sends endpoints: %v", got)
	}
	e.says(Routes, "")
	s.Set(Routes, table("a"))
	s.Set(Endpoints, endpoints("a", "b"))
	if got := e.gets(); len(got[Endpoints]) != 1 || len(got[Routes]) != 0 {
		t.Fatalf("with the endpoints: %v", got)
	}
	e.says(Endpoints, "")
	if got := e.gets(); len(got[Routes]) != 1 {
		t.Errorf("when Envoy has them: %v", got)
	}
	e.says(Routes, "")
	// Endpoints that are taken away while their cluster stays do not keep routes back.
	s.Set(Endpoints, endpoints("a"))
	e.gets()
	e.says(Endpoints, "")
	s.Set(Routes, table("b"))
	if got := e.gets(); len(got[Routes]) != 1 {
		t.Errorf("when endpoints have gone: %v", got)
	}
}

// A refusal is of a resource: another one that is taken later does not undo it.
func TestRefusalStaysUntilTheResourceChanges(t *testing.T) {
	s := NewServer()
	bad := bodies(t, map[string]proto.Message{"bad": eds("bad", 1)})
	s.Set(Clusters, bad)
	e := connect(t, s)
	e.ask(Clusters)
	e.gets()
	e.says(Clusters, "Error adding/updating cluster(s) bad: unknown")
	settled := func() string {
		done, _, err := s.settled(nil, []string{Clusters})
		if !done {
			t.Fatal("it is not settled")
		}
		var refused RefusedError
		errors.As(err, &refused)
		return refused.Reason
	}
	if why := settled(); !strings.Contains(why, "bad: unknown") {
		t.Errorf("refused: %q", why)
	}
	good := bodies(t, map[string]proto.Message{"good": eds("good", 1)})
	good["bad"] = bad["bad"]
	s.Set(Clusters, good)
	e.gets()
	e.says(Clusters, "")
	if why := settled(); !strings.Contains(why, "bad: unknown") {
		t.Errorf("after another cluster was taken it is %q", why)
	}
	s.Set(Clusters, bodies(t, map[string]proto.Message{"bad": eds("bad", 2), "good": eds("good", 1)}))
	e.gets()
	e.says(Clusters, "")
	if why := settled(); why != "" {
		t.Errorf("taken in another version, and yet %q", why)
	}
}

// What refers to a refused resource is never asked for: nobody waits for that.
func TestRefusalIsToldBeforeWhatItRefersTo(t *testing.T) {
	s := NewServer()
	need := State{
		Listeners: bodies(t, map[string]proto.Message{"main": &listener.Listener{Name: "main"}}),
		Routes:    bodies(t, map[string]proto.Message{"table": &route.RouteConfiguration{Name: "table"}}),
	}
	s.Set(Listeners, need[Listeners])
	s.Set(Routes, need[Routes])
	e := connect(t, s)
	e.ask(Listeners)
	e.gets()
	if done, _, _ := s.settled(need, []string{Listeners, Routes}); done {
		t.Fatal("settled before Envoy has answered")
	}
	e.says(Listeners, "Error adding/updating listener(s) main: no such filter")
	var refused RefusedError
	if err := s.Settle(context.Background(), need, Listeners, Routes); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "no such filter") {
		t.Errorf("%v", err)
	}
}

// An Envoy that is new begins with what the last one had, where what came since is known
// to be refused; then it may say so itself.
func TestNewEnvoyBeginsWithWhatWasTaken(t *testing.T) {
	s := NewServer()
	first := bodies(t, map[string]proto.Message{"main": &listener.Listener{Name: "main"}})
	next := bodies(t, map[string]proto.Message{"main": &listener.Listener{Name: "main", StatPrefix: "changed"}})
	s.Set(Listeners, first)
	e := connect(t, s)
	e.ask(Listeners)
	e.gets()
	e.says(Listeners, "")
	s.Set(Listeners, next)
	e.gets()
	e.says(Listeners, "listener main is wrong")
	e = connect(t, s)
	e.ask(Listeners)
	for i, want := range []Set{first, next} {
		got := e.gets()[Listeners]
		if len(got) != 1 || got[0] != "main="+want["main"].Version {
			t.Fatalf("answer %d: %v, want version %s", i+1, got, want["main"].Version)
		}
		e.says(Listeners, []string{"", "listener main is wrong"}[i])
	}
	if got := e.gets(); len(got) != 0 {
		t.Errorf("it goes on with %v", got)
	}
}

func TestWithheldListener(t *testing.T) {
	s := NewServer()
	s.Set(Listeners, bodies(t, map[string]proto.Message{"main": &listener.Listener{}, "handed": &listener.Listener{}}))
	s.Withhold("handed", true)
	e := connect(t, s)
	e.ask(Listeners)
	if got := e.gets()[Listeners]; len(got) != 1 || !strings.HasPrefix(got[0], "main=") {
		t.Errorf("%v", got)
	}
	e.says(Listeners, "")
	s.Withhold("handed", false)
	if got := e.gets()[Listeners]; len(got) != 1 || !strings.HasPrefix(got[0], "handed=") {
		t.Errorf("%v", got)
	}
}

func TestNamesInAText(t *testing.T) {
	for _, c := range []struct {
		text, name string
		want       bool
	}{
		{"Error adding/updating listener(s) main_internal: no", "main_internal", true},
		{"Error adding/updating listener(s) main_internal: no", "internal", false},
		{"cluster(s) outbound|80||a.b: x, outbound|81||a.b: y", "outbound|81||a.b", true},
		{"cluster(s) outbound|80||a.b.c: x", "outbound|80||a.b", false},
		{"'main'", "main", true},
		{"maintain main", "main", true},
		{"", "main", false},
	} {
		if got := names(c.text, c.name); got != c.want {
			t.Errorf("%q in %q: %t", c.name, c.text, got)
		}
	}
}

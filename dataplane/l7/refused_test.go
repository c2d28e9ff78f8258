package l7_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// alienName is a filter that no Envoy has.
const alienName = "io.istio.something.New"

// static is a cluster without endpoints.
func static(name string) *cluster.Cluster {
	return &cluster.Cluster{
		Name: name, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		LoadAssignment: &endpoint.ClusterLoadAssignment{ClusterName: name},
	}
}

// has reports whether Envoy has a cluster.
func (w *waypoint) has(cluster string) bool {
	all, err := w.Counters(context.Background(), `^cluster\.`+cluster+`\.membership_total$`)
	return err == nil && len(all) > 0
}

// A cluster that changes while its endpoints do not takes effect, and does not keep
// another from coming: Envoy makes it anew and waits for its endpoints.
func TestClusterChangesAndItsEndpointsDoNot(t *testing.T) {
	w, s := relayed(t)
	var c cluster.Cluster
	s.mu.Lock()
	err := s.sets[ads.Clusters][echoV1].Resource.UnmarshalTo(&c)
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c.ConnectTimeout = durationpb.New(3 * time.Second)
	s.set(ads.Clusters, echoV1, &c)
	if text := s.answer(ads.Clusters); text != "" {
		t.Errorf("refused: %s", text)
	}
	s.set(ads.Clusters, "another", static("another"))
	if text := s.answer(ads.Clusters); text != "" || !w.has("another") {
		t.Errorf("a cluster that comes later: refused for %q, or not there", text)
	}
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

// What is refused stays refused while it is there, whatever else is taken.
func TestRefusalIsNotForgotten(t *testing.T) {
	w, s := relayed(t)
	bad := static("bad")
	bad.TypedExtensionProtocolOptions = map[string]*anypb.Any{alienName: {TypeUrl: "type.googleapis.com/" + alienName}}
	s.set(ads.Clusters, "bad", bad)
	if text := s.answer(ads.Clusters); !strings.Contains(text, "bad") {
		t.Fatalf("the answer to istiod is %q", text)
	}
	s.set(ads.Clusters, "good", static("good"))
	if text := s.answer(ads.Clusters); !strings.Contains(text, "bad") || !w.has("good") || w.has("bad") {
		t.Errorf("with another cluster beside it the answer is %q", text)
	}
	a := plain(echoV1, echo2)
	s.set(ads.Endpoints, echoV1, a)
	if text := s.answer(ads.Endpoints); text != "" {
		t.Errorf("endpoints are refused: %s", text)
	}
	if st := w.until(t, "ready", ready); !strings.Contains(st.Source.Problem, "bad") {
		t.Errorf("the status says %q", st.Source.Problem)
	}
	s.set(ads.Clusters, "bad", nil)
	if text := s.answer(ads.Clusters); text != "" {
		t.Errorf("without it the answer is %q", text)
	}
	w.until(t, "without a problem", func(st api.Status) bool { return st.Source.Problem == "" })
}

// A waypoint that ends says so at once, and serves connections that still come.
func TestDrain(t *testing.T) {
	w, _ := relayed(t, func(c *l7.Config) { c.Drain, c.MinDrain = 5*time.Second, 5*time.Second })
	w.end()
	w.until(t, "draining", func(st api.Status) bool { return !st.Ready && strings.Contains(st.Waiting, "drains") })
	for range 20 {
		if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
			t.Fatalf("while it drains: %d %s", status, body)
		}
	}
}

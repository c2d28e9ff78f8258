package relay

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// fake is an Envoy that takes what it is sent, or refuses listeners.
type fake struct{ refuses atomic.Bool }

const refusal = "Error adding/updating listener(s) handoff_direct: it is of no use"

func (f *fake) ask(t *testing.T, r *Relay) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "xds")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	r.Register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	g, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{ads.Listeners, ads.Routes} {
		if err := g.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ}); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			m, err := g.Recv()
			if err != nil {
				return
			}
			q := &discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce}
			if m.TypeUrl == ads.Listeners && f.refuses.Load() {
				q.ErrorDetail = &status.Status{Message: refusal}
			}
			if g.Send(q) != nil {
				return
			}
		}
	}()
}

// Listeners that are made anew since an address has another owner are not istiod's to
// hear of; what Envoy thinks of them is said all the same.
func TestListenersMadeAnewAreJudged(t *testing.T) {
	r, err := New(Config{Node: &core.Node{}, Ports: Ports{Port: handOffPort}, ByAddress: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); r.wg.Wait() }()
	r.mu.Lock()
	r.life = ctx
	r.mu.Unlock()
	m := &discovery.DeltaDiscoveryResponse{TypeUrl: ads.Listeners}
	for name, body := range recorded(t) {
		m.Resources = append(m.Resources, &discovery.Resource{Name: name, Resource: body})
	}
	if err := r.take(ctx, m); err != nil {
		t.Fatal(err)
	}
	until := func(what string, holds func(s State) bool) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			s, changed := r.State()
			if holds(s) {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("never %s: %+v", what, s)
			}
		}
	}
	f := new(fake)
	f.ask(t, r)
	alice := workload("c//Pod/demo/alice", "demo", "alice", "10.0.0.71")
	tell(t, r.transformer.workloads, alice)
	until("taken", func(s State) bool { return s.Listens && s.Refused == "" && len(s.Hosts) > 0 })
	f.refuses.Store(true)
	tell(t, r.transformer.workloads, alice, workload("c//Pod/demo/bob", "demo", "bob", "10.0.0.72"))
	until("refused", func(s State) bool { return strings.Contains(s.Refused, refusal) })
	f.refuses.Store(false)
	tell(t, r.transformer.workloads, alice, workload("c//Pod/demo/carol", "demo", "carol", "10.0.0.73"))
	until("taken again", func(s State) bool { return s.Refused == "" })
}

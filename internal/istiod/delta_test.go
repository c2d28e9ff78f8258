package istiod

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// script is an ADS server that runs a function for each stream, one after the
// other; after the last it closes streams at once.
type script struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	streams chan func(ads discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error
}

func (s *script) DeltaAggregatedResources(ads discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	select {
	case run := <-s.streams:
		return run(ads)
	case <-ads.Context().Done():
		return ads.Context().Err()
	}
}

type ads = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

func serve(t *testing.T, options []grpc.ServerOption, streams ...func(ads) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &script{streams: make(chan func(ads) error, len(streams))}
	for _, run := range streams {
		s.streams <- run
	}
	g := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return l.Addr().String()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// taker records what it is handed and refuses what is named "bad".
type taker struct {
	responses chan Response
	ends      chan error
}

func newTaker() *taker { return &taker{make(chan Response, 10), make(chan error, 10)} }

func (*taker) Connected() {}

func (k *taker) Take(r Response) map[string]error {
	k.responses <- r
	refused := map[string]error{}
	for _, res := range r.Resources {
		if strings.HasPrefix(res.Name, "bad") {
			refused[res.Name] = errors.New("it makes no sense")
		}
	}
	return refused
}

func (k *taker) Disconnected(err error, _ time.Duration) {
	select {
	case k.ends <- err:
	default:
	}
}

// subscribe runs a Subscription for one type until the test ends.
func subscribe(t *testing.T, s Server, k *taker) {
	t.Helper()
	conn, err := s.Connect()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	sub := Subscription{Node: &core.Node{Id: "node"}, Types: []string{"a", "b"}, Wait: Backoff{time.Millisecond, 10 * time.Millisecond}}
	ended := make(chan error)
	go func() { ended <- sub.Run(ctx, conn, k) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		must(t, conn.Close())
	})
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing within 20 s")
	}
	panic("unreachable")
}

func answer(typeURL, nonce string, names ...string) *discovery.DeltaDiscoveryResponse {
	r := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce}
	for _, n := range names {
		r.Resources = append(r.Resources, &discovery.Resource{Name: n, Version: "v-" + n, Resource: &anypb.Any{TypeUrl: typeURL}})
	}
	return r
}

func TestSubscribeAckNackAndResume(t *testing.T) {
	requests := make(chan *discovery.DeltaDiscoveryRequest, 20)
	read := func(ads ads, n int) {
		for range n {
			r, err := ads.Recv()
			if err != nil {
				return
			}
			requests <- r
		}
	}
	first := func(ads ads) error {
		read(ads, 2)
		if err := ads.Send(answer("a", "1", "one", "bad", "two")); err != nil {
			return err
		}
		read(ads, 1)
		gone := answer("a", "2")
		gone.RemovedResources = []string{"two"}
		if err := ads.Send(gone); err != nil {
			return err
		}
		read(ads, 1)
		if err := ads.Send(answer("never-asked", "3", "x")); err != nil {
			return err
		}
		read(ads, 1)
		return errors.New("the end of the first stream")
	}
	second := func(ads ads) error {
		read(ads, 2)
		<-ads.Context().Done()
		return nil
	}
	k := newTaker()
	subscribe(t, Server{Address: serve(t, nil, first, second), Plaintext: true}, k)

	for i, typeURL := range []string{"a", "b"} {
		r := receive(t, requests)
		if r.TypeUrl != typeURL || len(r.ResourceNamesSubscribe) != 1 || r.ResourceNamesSubscribe[0] != "*" ||
			(r.Node != nil) != (i == 0) || len(r.InitialResourceVersions) != 0 {
			t.Errorf("request %d is %v", i, r)
		}
	}
	if r := receive(t, k.responses); len(r.Resources) != 3 || r.Resources[0].Version != "v-one" {
		t.Errorf("taken: %+v", r)
	}
	if r := receive(t, requests); r.ResponseNonce != "1" || r.GetErrorDetail().GetMessage() != "bad: it makes no sense" {
		t.Errorf("not a NACK that names what was refused: %v", r)
	}
	if r := receive(t, k.responses); len(r.Removed) != 1 || r.Removed[0] != "two" {
		t.Errorf("taken: %+v", r)
	}
	if r := receive(t, requests); r.ResponseNonce != "2" || r.ErrorDetail != nil {
		t.Errorf("not an ACK: %v", r)
	}
	if r := receive(t, requests); r.ResponseNonce != "3" || !strings.Contains(r.GetErrorDetail().GetMessage(), "was not asked for") {
		t.Errorf("a type that nobody asked for: %v", r)
	}
	if err := receive(t, k.ends); !strings.Contains(err.Error(), "the end of the first stream") {
		t.Errorf("the stream ended with %v", err)
	}
	// The next stream says exactly what is held: not what was refused or removed.
	r := receive(t, requests)
	if v := r.InitialResourceVersions; len(v) != 1 || v["one"] != "v-one" || r.Node == nil {
		t.Errorf("the second stream begins with %v", r)
	}
}

// A server that answers resets the wait, one that only breaks off does not.
func TestBackoffGrowsUntilSomethingIsDelivered(t *testing.T) {
	w := Backoff{}.start()
	last := time.Duration(0)
	for range 30 {
		last = max(last, w.NextBackOff())
	}
	if last < 7*time.Second || last > 23*time.Second {
		t.Errorf("the longest wait is %v, want 15 s ± 50 %%", last)
	}
	w.Reset()
	if first := w.NextBackOff(); first > 400*time.Millisecond {
		t.Errorf("the first wait is %v, want 250 ms ± 50 %%", first)
	}
}

func TestReasonsAreBounded(t *testing.T) {
	refused := map[string]error{}
	for i := range 50 {
		refused[strings.Repeat("x", i+1)] = errors.New("no")
	}
	if got := reasons(refused); strings.Count(got, ";") != 10 || !strings.HasSuffix(got, "and 40 more") {
		t.Errorf("%q", got)
	}
}

package istiod

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// taker records what it is handed and refuses what is named "bad", or of a version
// that is.
type taker struct {
	connected atomic.Int32
	responses chan Response
	ends      chan error
}

func newTaker() *taker {
	return &taker{responses: make(chan Response, 10), ends: make(chan error, 10)}
}

func (k *taker) Connected() { k.connected.Add(1) }

func (k *taker) Take(r Response) map[string]error {
	k.responses <- r
	refused := map[string]error{}
	for _, res := range r.Resources {
		if strings.HasPrefix(res.Name, "bad") || strings.HasPrefix(res.Version, "bad") {
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

// subscribe runs a Subscription for two types until the test ends.
func subscribe(t *testing.T, s Server, k *taker, change ...func(*Subscription)) {
	t.Helper()
	conn, err := s.Connect()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	sub := Subscription{Node: &core.Node{Id: "node"}, Types: []string{"a", "b"}, Wait: Backoff{time.Millisecond, 10 * time.Millisecond}}
	for _, f := range change {
		f(&sub)
	}
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

// answered takes both requests of a stream, as istiod does, before it answers and ends it:
// a stream that ends while it is written to may deliver nothing.
func answered(ads ads, a *discovery.DeltaDiscoveryResponse) error {
	for range 2 {
		if _, err := ads.Recv(); err != nil {
			return err
		}
	}
	return ads.Send(a)
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

// Of what is refused the version that was taken before is held, and said to be: else
// istiod would never tell that it is gone. The first answer of each type is marked.
func TestRefusedIsHeldAsItWas(t *testing.T) {
	again := make(chan *discovery.DeltaDiscoveryRequest, 2)
	newer := answer("a", "2", "one", "new")
	for _, r := range newer.Resources {
		r.Version = "bad"
	}
	first := func(ads ads) error {
		for _, a := range []*discovery.DeltaDiscoveryResponse{answer("a", "1", "one"), newer, answer("b", "3")} {
			if err := ads.Send(a); err != nil {
				return err
			}
		}
		for range 2 + 3 { // what was asked for, and what became of the answers
			if _, err := ads.Recv(); err != nil {
				return err
			}
		}
		return errors.New("the end of the first stream")
	}
	second := func(ads ads) error {
		r, err := ads.Recv()
		if err != nil {
			return err
		}
		again <- r
		if _, err := ads.Recv(); err != nil {
			return err
		}
		return ads.Send(answer("a", "1"))
	}
	k := newTaker()
	subscribe(t, Server{Address: serve(t, nil, first, second), Plaintext: true}, k)
	for i, first := range []bool{true, false, true, true} {
		if r := receive(t, k.responses); r.First != first {
			t.Errorf("answer %d is the first of its type: %t", i, r.First)
		}
	}
	if v := receive(t, again).InitialResourceVersions; len(v) != 1 || v["one"] != "v-one" {
		t.Errorf("the second stream says it has %v", v)
	}
}

// overStream has answers that nobody has read, and then its end.
type overStream struct {
	grpc.ClientStream
	answers int
}

func (s *overStream) RecvMsg(any) error {
	if s.answers--; s.answers >= 0 {
		return nil
	}
	return status.Error(codes.Unavailable, "istiod goes")
}

// What ended a stream is said after what came before, and what the client itself did wrong
// is not looked for there.
func TestCauseIsTheEnd(t *testing.T) {
	if err := cause(&overStream{answers: 2}, io.EOF); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	own := errors.New("this cannot be sent")
	if err := cause(&overStream{}, own); !errors.Is(err, own) {
		t.Errorf("the client's own error has become %v", err)
	}
}

// A stream on which nothing is answered is no connection, and is given up.
func TestNoAnswer(t *testing.T) {
	mute := func(ads ads) error {
		<-ads.Context().Done()
		return ads.Context().Err()
	}
	k := newTaker()
	subscribe(t, Server{Address: serve(t, nil, mute, func(ads ads) error { return answered(ads, answer("a", "1")) }), Plaintext: true}, k,
		func(s *Subscription) { s.Answer = time.Second })
	err := receive(t, k.ends)
	if ReasonOf(err) != Silent || !strings.Contains(err.Error(), "no answer within 1s") || k.connected.Load() != 0 {
		t.Errorf("%v, connected %d times", err, k.connected.Load())
	}
	receive(t, k.responses) // the control
	if n := k.connected.Load(); n != 1 {
		t.Errorf("connected %d times, want once", n)
	}
}

// Where nobody listens the wait stays short; who listens and refuses is left alone for
// longer.
func TestBackoffWhereNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	refuse := func(ads) error { return status.Error(codes.Unauthenticated, "no") }
	for name, c := range map[string]struct {
		address string
		reason  Reason
		most    time.Duration
	}{
		"nobody":  {l.Addr().String(), Unreachable, 5 * time.Second},
		"refused": {serve(t, nil, refuse), Unauthenticated, 23 * time.Second},
	} {
		k := newTaker()
		subscribe(t, Server{Address: c.address, Plaintext: true}, k)
		why := receive(t, k.ends)
		if ReasonOf(why) != c.reason {
			t.Errorf("%s: %v", name, why)
		}
		waits, longest, shortest := Backoff{}.start(), time.Duration(0), time.Hour
		for i := range 60 {
			wait := Backoff{}.after(why, waits.NextBackOff())
			if longest = max(longest, wait); i >= 30 {
				shortest = min(shortest, wait)
			}
		}
		if longest > c.most || longest < c.most/2 || shortest < c.most/4 || longest == shortest {
			t.Errorf("%s: waits of %v to %v, want at most %v", name, shortest, longest, c.most)
		}
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

package l7_test

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Addresses of the recorded services.
const (
	echoVIP      = "10.96.10.20"
	fortioVIP    = "10.96.10.10"
	echoRoute    = "inbound-vip|80|http|echo.demo.svc.cluster.local"
	echoV1       = "inbound-vip|80|http|echo-v1.demo.svc.cluster.local"
	echoV2       = "inbound-vip|80|http|echo-v2.demo.svc.cluster.local"
	mainInternal = "main_internal"
	scriptedAt   = "127.0.0.1:15010"
)

// relayed starts a waypoint that asks a scripted istiod, with plain backends behind the
// echo services, and waits until it is ready.
func relayed(t *testing.T, change ...func(c *l7.Config)) (*waypoint, *scripted) {
	t.Helper()
	w, s := relaying(t, nil, 100*time.Millisecond, change...)
	w.until(t, "ready", ready)
	return w, s
}

// relaying is the same without the wait; the CA signs when withhold is closed, and what
// leaves is held for some time.
func relaying(t *testing.T, withhold chan struct{}, hold time.Duration, change ...func(c *l7.Config)) (*waypoint, *scripted) {
	t.Helper()
	c := config(t)
	c.Hold = hold
	for _, f := range change {
		f(&c)
	}
	s := startScripted(t)
	s.withhold = withhold
	if c.Idle > 0 {
		s.blind = 1 // as long as istiod does not know the pod
	}
	address(t, echo1, echo2)
	backend(t, echo1+":8080", "v1")
	backend(t, echo2+":8080", "v2")
	s.set(ads.Endpoints, echoV1, plain(echoV1, echo1))
	s.set(ads.Endpoints, echoV2, plain(echoV2, echo2))
	capture(t, echoVIP, fortioVIP)
	control, err := l7.NewIstiod(c, istiod.Server{Address: scriptedAt, Plaintext: true}, "xds:"+scriptedAt)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, c, control), s
}

// A certificate that comes late is waited for, and said to be.
func TestCertificateThatComesLate(t *testing.T) {
	withhold := make(chan struct{})
	w, _ := relaying(t, withhold, 100*time.Millisecond)
	w.until(t, "waiting for its certificate", func(st api.Status) bool {
		return !st.Ready && strings.Contains(st.Waiting, "certificate")
	})
	close(withhold)
	w.until(t, "ready", ready)
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

// plain is one endpoint without HBONE.
func plain(cluster, addr string) *endpoint.ClusterLoadAssignment {
	return &endpoint.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpoint.LocalityLbEndpoints{{
		LbEndpoints: []*endpoint.LbEndpoint{{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
			Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
				Address: addr, PortSpecifier: &core.SocketAddress_PortValue{PortValue: 8080},
			}}},
		}}}},
	}}}
}

// edit changes the recorded main_internal.
func (s *scripted) edit(t *testing.T, change func(l *listener.Listener)) {
	t.Helper()
	s.mu.Lock()
	var l listener.Listener
	err := s.sets[ads.Listeners][mainInternal].Resource.UnmarshalTo(&l)
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	change(&l)
	s.set(ads.Listeners, mainInternal, &l)
}

// weigh gives the echo route other weights.
func weigh(t *testing.T, v1 uint32) func(l *listener.Listener) {
	return func(l *listener.Listener) {
		for _, c := range l.FilterChains {
			if c.Name != echoRoute {
				continue
			}
			var h hcm.HttpConnectionManager
			if err := c.Filters[0].GetTypedConfig().UnmarshalTo(&h); err != nil {
				t.Fatal(err)
			}
			shares := h.GetRouteConfig().VirtualHosts[0].Routes[0].GetRoute().GetWeightedClusters().Clusters
			shares[0].Weight.Value, shares[1].Weight.Value = v1, 100-v1
			packed, err := ads.Pack(&h)
			if err != nil {
				t.Fatal(err)
			}
			c.Filters[0].ConfigType = &listener.Filter_TypedConfig{TypedConfig: packed}
		}
	}
}

// Envoy takes all that istiod was recorded to send, once the relay has changed it, and
// istiod hears that.
func TestStockEnvoyTakesRecordedResources(t *testing.T) {
	w, s := relayed(t)
	for _, typ := range []string{ads.Clusters, ads.Endpoints, ads.Listeners} {
		if text := s.answer(typ); text != "" {
			t.Errorf("%s was refused: %s", typ, text)
		}
	}
	st := w.until(t, "ready", ready)
	if !slices.Contains(st.Services, "echo.demo.svc.cluster.local") || len(st.Services) < 5 {
		t.Errorf("services %v", st.Services)
	}
	for _, c := range st.Changes {
		if c.Kind == "drop-stats" && c.Count != 10 {
			t.Errorf("drop-stats is counted %d times, want 10", c.Count)
		}
	}
}

func TestRecordedSplitAndNewWeights(t *testing.T) {
	const n = enough
	_, s := relayed(t)
	c := newClient(t)
	got := c.share("http://"+echoVIP, n)
	within(t, "v2", got["v2"], .1)
	s.edit(t, weigh(t, 10))
	if text := s.answer(ads.Listeners); text != "" {
		t.Fatalf("refused: %s", text)
	}
	after := c.share("http://"+echoVIP, n)
	within(t, "v2 after the change", after["v2"], .9)
	if got["v1"]+got["v2"] != n || after["v1"]+after["v2"] != n || c.dials != 1 {
		t.Errorf("answers %v, then %v, over %d connections", got, after, c.dials)
	}
}

// A rule that names a principal refuses what was handed over: it has none.
func TestHandOffWithoutPrincipalIsRefusedAndCounted(t *testing.T) {
	w, _ := relayed(t)
	if status, body := newClient(t).get("http://" + fortioVIP); status != 0 {
		t.Errorf("served: %d %s", status, body)
	}
	counters, err := w.Counters(context.Background(), `handoff_needs_identity\..*downstream_cx_total$`)
	if err != nil {
		t.Fatal(err)
	}
	n := slices.Collect(maps.Values(counters))
	if len(n) != 1 || n[0] != 1 {
		t.Errorf("counted %v, want 1", counters)
	}
}

// While istiod is away requests go on, Envoy's restart included; what changed meanwhile
// comes when it is back, and it is not told of what is ours.
func TestIstiodAwayAndBack(t *testing.T) {
	w, s := relayed(t)
	c := newClient(t)
	s.stop()
	w.until(t, "without istiod", func(st api.Status) bool { return st.Source.Problem != "" })
	if got := c.share("http://"+echoVIP, 200); got["v1"]+got["v2"] != 200 {
		t.Errorf("without istiod: %v", got)
	}
	before := w.until(t, "ready", ready)
	kill(t, before.Envoy.PID)
	w.until(t, "up again", func(st api.Status) bool { return st.Ready && st.Envoy.PID != before.Envoy.PID })
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("an Envoy that was started without istiod: %d %s", status, body)
	}
	s.edit(t, weigh(t, 0))
	s.start()
	if text := s.answer(ads.Listeners); text != "" {
		t.Fatalf("refused: %s", text)
	}
	if got := newClient(t).share("http://"+echoVIP, 200); got["v2"] != 200 {
		t.Errorf("after istiod is back: %v", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.claimed {
		if strings.HasPrefix(name, "handoff") {
			t.Errorf("istiod was told of %s", name)
		}
	}
	if len(s.claimed) == 0 {
		t.Error("istiod was not told what is there already")
	}
}

// An Envoy that is started again has all that it asks for from memory: istiod is not asked
// for the endpoints once more, nor told that nobody wants them.
func TestEnvoyIsStartedAgainFromMemory(t *testing.T) {
	w, s := relayed(t)
	for range 3 {
		before := w.until(t, "ready", ready)
		kill(t, before.Envoy.PID)
		w.until(t, "up again", func(st api.Status) bool { return st.Ready && st.Envoy.PID != before.Envoy.PID })
		if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	}
	s.mu.Lock()
	dropped := slices.Clone(s.dropped)
	s.mu.Unlock()
	if len(dropped) > 0 {
		t.Errorf("istiod was told that these are not wanted: %v", dropped)
	}
	// The control: a cluster that goes is let go of.
	s.set(ads.Clusters, echoV2, nil)
	deadline := time.Now().Add(patience)
	for {
		s.mu.Lock()
		gone := slices.Contains(s.dropped, echoV2)
		s.mu.Unlock()
		if gone {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("istiod was never told that %s is not wanted", echoV2)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// What stock Envoy does not know is refused by name, and nothing is lost by it.
func TestUnknownFilterIsRefusedByName(t *testing.T) {
	_, s := relayed(t)
	const alien = "type.googleapis.com/io.istio.something.New"
	s.edit(t, func(l *listener.Listener) {
		for _, c := range l.FilterChains {
			if c.Name == echoRoute {
				c.Filters[0].ConfigType.(*listener.Filter_TypedConfig).TypedConfig.TypeUrl = alien
			}
		}
	})
	if text := s.answer(ads.Listeners); !strings.Contains(text, "io.istio.something.New") {
		t.Errorf("the answer to istiod is %q", text)
	}
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

// A service that istiod takes away is served for the time of Hold, and then refused;
// without a hold it is refused at once.
func TestServiceThatIstiodTakesAwayIsHeld(t *testing.T) {
	for _, hold := range []time.Duration{3 * time.Second, -1} {
		t.Run(hold.String(), func(t *testing.T) {
			w, s := relaying(t, nil, hold)
			w.until(t, "ready", ready)
			s.edit(t, func(l *listener.Listener) {
				l.FilterChains = slices.DeleteFunc(l.FilterChains, func(c *listener.FilterChain) bool { return c.Name == echoRoute })
			})
			if text := s.answer(ads.Listeners); text != "" {
				t.Fatalf("refused: %s", text)
			}
			status, _ := newClient(t).get("http://" + echoVIP)
			if (status == http.StatusOK) != (hold > 0) {
				t.Errorf("right after it has left the answer is %d", status)
			}
			deadline := time.Now().Add(patience)
			for status != 0 {
				if time.Now().After(deadline) {
					t.Fatal("it is still served")
				}
				status, _ = newClient(t).get("http://" + echoVIP)
			}
		})
	}
}

// A filter that Envoy does not know is refused by name also in the first configuration;
// an Envoy that is started again after a later one has what was good before it.
func TestRefusedConfigurations(t *testing.T) {
	const alien = "type.googleapis.com/io.istio.something.New"
	withAlien := func(l *listener.Listener) {
		for _, c := range l.FilterChains {
			if c.Name == echoRoute {
				c.Filters[0].ConfigType.(*listener.Filter_TypedConfig).TypedConfig.TypeUrl = alien
			}
		}
	}
	t.Run("the first", func(t *testing.T) {
		withhold := make(chan struct{})
		w, s := relaying(t, withhold, -1)
		s.edit(t, withAlien)
		close(withhold)
		if text := s.answer(ads.Listeners); !strings.Contains(text, "io.istio.something.New") {
			t.Errorf("the answer to istiod is %q", text)
		}
		st := w.until(t, "refusing", func(st api.Status) bool { return st.Source.Problem != "" })
		if st.Ready || !strings.Contains(st.Waiting, "io.istio.something.New") {
			t.Errorf("ready %t, waits for %q", st.Ready, st.Waiting)
		}
	})
	t.Run("a later one, and Envoy ends", func(t *testing.T) {
		w, s := relayed(t)
		s.edit(t, withAlien)
		if text := s.answer(ads.Listeners); !strings.Contains(text, "io.istio.something.New") {
			t.Fatalf("the answer to istiod is %q", text)
		}
		before := w.until(t, "ready", ready)
		kill(t, before.Envoy.PID)
		w.until(t, "up again", func(st api.Status) bool { return st.Ready && st.Envoy.PID != before.Envoy.PID })
		if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		}
	})
}

// takeAway removes the echo service from the recorded main_internal as istiod does: its
// chain, and the way to it.
func takeAway(t *testing.T) func(l *listener.Listener) {
	return func(l *listener.Listener) {
		l.FilterChains = slices.DeleteFunc(l.FilterChains, func(c *listener.FilterChain) bool { return c.Name == echoRoute })
		custom := l.FilterChainMatcher.GetMatcherTree().GetCustomMatch()
		var ranges xds.IPMatcher
		if err := custom.GetTypedConfig().UnmarshalTo(&ranges); err != nil {
			t.Fatal(err)
		}
		before := len(ranges.RangeMatchers)
		ranges.RangeMatchers = slices.DeleteFunc(ranges.RangeMatchers, func(r *xds.IPMatcher_IPRangeMatcher) bool {
			return r.Ranges[0].AddressPrefix == echoVIP
		})
		if len(ranges.RangeMatchers) != before-1 {
			t.Fatal("the recorded listener has no way to echo")
		}
		packed, err := ads.Pack(&ranges)
		if err != nil {
			t.Fatal(err)
		}
		custom.TypedConfig = packed
	}
}

// What has left is refused after the time of Hold, however much istiod sends meanwhile.
func TestWhatIsHeldLeavesUnderPushes(t *testing.T) {
	_, s := relayed(t)
	ctx, stop := context.WithCancel(context.Background())
	var pushes sync.WaitGroup
	defer pushes.Wait()
	defer stop()
	pushes.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond) // half of Hold
		defer tick.Stop()
		for weight := uint32(1); ctx.Err() == nil; weight++ {
			a := plain(echoV1, echo1)
			a.Endpoints[0].LbEndpoints[0].LoadBalancingWeight = wrapperspb.UInt32(weight)
			s.set(ads.Endpoints, echoV1, a)
			<-tick.C
		}
	})
	s.edit(t, takeAway(t))
	deadline := time.Now().Add(patience)
	for {
		if status, _ := newClient(t).get("http://" + echoVIP); status == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it is still served")
		}
	}
}

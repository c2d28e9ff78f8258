package l7_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"gonum.org/v1/gonum/stat/distuv"
)

const (
	vip   = "10.96.0.10"
	vip6  = "fd96::10"
	echo1 = "10.0.0.1"
	echo2 = "10.0.0.2"
)

// mesh is a service before two versions, by weight, with a header for the second.
func mesh(v1, v2 uint32) intent.Snapshot {
	pod := func(name, at string) *intent.Workload {
		return &intent.Workload{UID: name, Name: name, Namespace: "demo", Addresses: []netip.Addr{netip.MustParseAddr(at)}, Weight: 1}
	}
	one, two := pod("v1", echo1), pod("v2", echo2)
	wp := &intent.Waypoint{Name: "demo/waypoint", Codec: intent.OriginalDst, Port: l7.HandOffPort}
	service := func(name string, pods ...*intent.Workload) *intent.Service {
		s := &intent.Service{
			Name: name, Namespace: "demo", Hostname: name + ".demo.svc.cluster.local",
			Ports: []intent.Port{
				{Port: 80, Target: 8080, Name: "http", Protocol: intent.TCP},
				{Port: 9000, Target: 9000, Name: "tcp", Protocol: intent.TCP},
			},
		}
		for _, p := range pods {
			s.Endpoints = append(s.Endpoints, intent.Endpoint{Workload: p})
		}
		return s
	}
	echo := service("echo", one, two)
	echo.Addresses, echo.Waypoint = []netip.Addr{netip.MustParseAddr(vip), netip.MustParseAddr(vip6)}, wp
	return intent.Snapshot{
		Services:  []*intent.Service{echo, service("echo-v1", one), service("echo-v2", two)},
		Workloads: []*intent.Workload{one, two},
		Routes: []*intent.Route{
			{Service: "demo/echo", Match: intent.HeaderMatch{Name: "x-canary", Exact: "yes"}, Backends: []intent.Backend{{Service: "demo/echo-v2", Port: 80, Weight: 1}}},
			{Service: "demo/echo", Backends: []intent.Backend{{Service: "demo/echo-v1", Port: 80, Weight: v1}, {Service: "demo/echo-v2", Port: 80, Weight: v2}}, Timeout: 5 * time.Second},
		},
	}
}

// served starts a waypoint for the mesh, and what stands behind it.
func served(t *testing.T, s intent.Snapshot, change ...func(c *l7.Config)) (*waypoint, chan<- l7.Update) {
	t.Helper()
	c := config(t)
	for _, f := range change {
		f(&c)
	}
	address(t, echo1, echo2)
	backend(t, echo1+":8080", "v1")
	backend(t, echo2+":8080", "v2")
	capture(t, vip)
	updates := make(chan l7.Update, 1)
	updates <- l7.Update{Snapshot: s, Version: "first"}
	w := run(t, c, l7.NewEmbedded(c, intent.Place{}, "test", updates))
	w.until(t, "ready", ready)
	return w, updates
}

// enough requests show an error of five points in a share of a tenth.
const enough = 4000

// within fails when a count of enough is not one that a share gives, with an error of
// one in a million.
func within(t *testing.T, what string, got int, share float64) {
	t.Helper()
	const n = enough
	b := distuv.Binomial{N: float64(n), P: share}
	if b.CDF(float64(got)) < 5e-7 || 1-b.CDF(float64(got-1)) < 5e-7 {
		t.Errorf("%s: %d of %d, want a share of %g", what, got, n, share)
	}
}

func TestRequestsAreSplitOnOneConnection(t *testing.T) {
	const n = enough
	w, updates := served(t, mesh(90, 10))
	c := newClient(t)
	got := c.share("http://"+vip, n)
	within(t, "v2", got["v2"], .1)
	if got["v1"]+got["v2"] != n || c.dials != 1 {
		t.Errorf("answers %v over %d connections", got, c.dials)
	}
	if got := c.with("http://"+vip, 200, "x-canary", "yes"); got["v2"] != 200 {
		t.Errorf("with the header: %v", got)
	}

	// New weights reach the connection that is open.
	updates <- l7.Update{Snapshot: mesh(10, 90), Version: "second"}
	if _, err := w.Status(context.Background(), "second"); err != nil {
		t.Fatal(err)
	}
	got = c.share("http://"+vip, n)
	within(t, "v2 after the change", got["v2"], .9)
	if got["v1"]+got["v2"] != n || c.dials != 1 {
		t.Errorf("after the change: answers %v over %d connections", got, c.dials)
	}
	counters, err := w.Counters(context.Background(), `^cluster\.inbound-vip.*echo-v[12].*upstream_rq_total$|handoff_direct\.downstream_cx_total$`)
	if err != nil {
		t.Fatal(err)
	}
	requests := uint64(0)
	for name, v := range counters {
		if strings.HasSuffix(name, "upstream_rq_total") {
			requests += v
		}
	}
	if requests != 2*n+200 {
		t.Errorf("Envoy counts %d requests, the client %d: %v", requests, 2*n+200, counters)
	}
}

// with asks n times with a header.
func (c *client) with(url string, n int, header ...string) map[string]int {
	got := map[string]int{}
	for range n {
		_, body := c.get(url, header...)
		got[body]++
	}
	return got
}

// A server that speaks first is heard.
func TestServerThatSpeaksFirst(t *testing.T) {
	served(t, mesh(90, 10))
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", echo1+":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l2, err := new(net.ListenConfig).Listen(context.Background(), "tcp", echo2+":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer l2.Close()
	for _, l := range []net.Listener{l, l2} {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("hello\n"))
			}
		}()
	}
	c, err := new(net.Dialer).Dial("tcp", vip+":9000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(patience))
	line := make([]byte, 6)
	if _, err := c.Read(line); err != nil || string(line) != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

// An address that no service has, and the port itself, are refused and counted.
func TestUnknownDestinationIsRefused(t *testing.T) {
	w, _ := served(t, mesh(90, 10))
	capture(t, "10.96.0.99")
	c := newClient(t)
	for _, url := range []string{"http://10.96.0.99", fmt.Sprintf("http://127.0.0.1:%d", l7.HandOffPort)} {
		if status, body := c.get(url); status != 0 {
			t.Errorf("%s was served: %d %s", url, status, body)
		}
	}
	counters, err := w.Counters(context.Background(), `handoff_direct\.no_filter_chain_match$`)
	if err != nil {
		t.Fatal(err)
	}
	if n := slices.Collect(maps.Values(counters)); len(n) != 1 || n[0] != 2 {
		t.Errorf("counted: %v, want 2", counters)
	}
}

// A request that takes longer than the route allows is ended.
func TestRouteTimeout(t *testing.T) {
	s := mesh(100, 0)
	s.Routes[1].Timeout = 50 * time.Millisecond
	s.Services[1].Ports[0].Target = 8081
	released := make(chan struct{})
	defer close(released)
	address(t, "10.0.0.9")
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "10.0.0.9:8081")
	if err != nil {
		t.Fatal(err)
	}
	slow := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })}
	go slow.Serve(l)
	defer slow.Close()
	s.Workloads[0].Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.9")}
	served(t, s)
	if status, body := newClient(t).get("http://" + vip); status != http.StatusGatewayTimeout {
		t.Errorf("%d %s, want 504", status, body)
	}
}

// Envoy that is killed comes back, with the configuration, and the waypoint stays.
func TestEnvoyIsStartedAgain(t *testing.T) {
	w, _ := served(t, mesh(100, 0))
	before := w.until(t, "ready", ready)
	kill(t, before.Envoy.PID)
	w.until(t, "up again", func(s api.Status) bool { return s.Ready && s.Envoy.Restarts == 1 && s.Envoy.PID != before.Envoy.PID })
	if status, body := newClient(t).get("http://" + vip); status != http.StatusOK {
		t.Errorf("after the restart: %d %s", status, body)
	}
}

// The next Envoy stands by and takes the place of one that is killed, with what came
// meanwhile; one that is killed itself is not waited for, and none is left at the end.
func TestEnvoyThatStandsBy(t *testing.T) {
	w, updates := served(t, mesh(100, 0))
	stands := func(s api.Status) bool { return s.Ready && s.Envoy.StandBy != 0 }
	before := w.until(t, "served by one while another stands by", stands)
	updates <- l7.Update{Snapshot: mesh(0, 100), Version: "second"}
	if _, err := w.Status(context.Background(), "second"); err != nil {
		t.Fatal(err)
	}
	kill(t, before.Envoy.PID)
	after := w.until(t, "up again", func(s api.Status) bool { return stands(s) && s.Envoy.Restarts == 1 })
	if after.Envoy.PID != before.Envoy.StandBy {
		t.Errorf("process %d has taken over, %d stood by", after.Envoy.PID, before.Envoy.StandBy)
	}
	if got := newClient(t).share("http://"+vip, 20); got["v2"] != 20 {
		t.Errorf("after the restart: %v", got)
	}
	kill(t, after.Envoy.StandBy)
	kill(t, after.Envoy.PID)
	last := w.until(t, "up once more", func(s api.Status) bool { return stands(s) && s.Envoy.Restarts == 2 })
	if last.Envoy.PID == after.Envoy.StandBy {
		t.Error("one that was killed serves")
	}
	w.stop(t)
	if err := syscall.Kill(last.Envoy.StandBy, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the one that stood by is left: %v", err)
	}
}

// What Envoy refuses is said, and it goes on with what it has.
func TestWhatCannotBeRenderedIsSaid(t *testing.T) {
	w, updates := served(t, mesh(100, 0))
	bad := mesh(100, 0)
	bad.Routes = append(bad.Routes, bad.Routes[0])
	updates <- l7.Update{Snapshot: bad, Version: "bad"}
	s, err := w.Status(context.Background(), "bad")
	if err != nil {
		t.Fatal(err)
	}
	if s.Source.Applied != "first" || !strings.Contains(s.Source.Problem, "never reached") {
		t.Errorf("status %+v", s.Source)
	}
	if status, body := newClient(t).get("http://" + vip); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

// A service that leaves the waypoint is served for the time of Hold, not longer.
func TestServiceThatLeavesIsHeld(t *testing.T) {
	w, updates := served(t, mesh(100, 0))
	c := newClient(t)
	left := mesh(100, 0)
	left.Services[0].Waypoint = nil
	updates <- l7.Update{Snapshot: left, Version: "left"}
	if _, err := w.Status(context.Background(), "left"); err != nil {
		t.Fatal(err)
	}
	if status, body := c.get("http://" + vip); status != http.StatusOK {
		t.Errorf("right after it has left: %d %s", status, body)
	}
	deadline := time.Now().Add(patience)
	for {
		if status, _ := newClient(t).get("http://" + vip); status == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it is still served")
		}
	}
}

// It leaves then, however much the source changes meanwhile.
func TestWhatIsHeldLeavesUnderUpdates(t *testing.T) {
	w, updates := served(t, mesh(100, 0), func(c *l7.Config) { c.Hold = 2 * time.Second })
	deadline := time.Now().Add(patience)
	for n := uint32(1); ; n++ {
		left := mesh(100+n, 0)
		left.Services[0].Waypoint = nil
		version := fmt.Sprint("left ", n)
		updates <- l7.Update{Snapshot: left, Version: version}
		if _, err := w.Status(context.Background(), version); err != nil {
			t.Fatal(err)
		}
		status, body := newClient(t).get("http://" + vip)
		switch {
		case n == 1 && status != http.StatusOK:
			t.Fatalf("right after it has left: %d %s", status, body)
		case status == 0:
			return
		case time.Now().After(deadline):
			t.Fatal("it is still served")
		}
	}
}

// No Envoy, or a configuration that it does not start with, is one clear error.
func TestEnvoyThatDoesNotStart(t *testing.T) {
	c := config(t)
	c.Envoy = "/nowhere/envoy"
	err := l7.Run(context.Background(), c, l7.NewEmbedded(c, intent.Place{}, "test", nil))
	if err == nil || !strings.Contains(err.Error(), "/nowhere/envoy") {
		t.Errorf("error %v", err)
	}
	c = config(t)
	c.LogLevel = "loudly"
	err = l7.Run(context.Background(), c, l7.NewEmbedded(c, intent.Place{}, "test", nil))
	if err == nil || !strings.Contains(err.Error(), "loudly") || strings.Count(err.Error(), "Envoy does not start") != 1 {
		t.Errorf("error %v", err)
	}
}

package netsim

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

// twoNodes has a client on each node, and a server on each.
func twoNodes(mesh scenario.Mesh) scenario.Topology {
	return scenario.Topology{Mesh: mesh, Nodes: []scenario.Node{
		{Name: "a", Pods: []scenario.Pod{
			{Name: "client", Managed: true}, {Name: "stranger"}, {Name: "v1", Serve: []uint16{8080}},
		}},
		{Name: "b", Pods: []scenario.Pod{
			{Name: "far", Managed: true}, {Name: "v2", Serve: []uint16{8080, 9090}},
		}},
	}}
}

// canary is one dual-stack service, 90/10.
func canary(v1, v2 uint32) scenario.Objects {
	return scenario.Objects{Services: []scenario.Service{{
		Name: "fortio", Family: scenario.Dual,
		Ports:     []scenario.Port{{Port: 80, Target: 8080}},
		Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: v1}, {Pod: "v2", Weight: v2}},
	}}}
}

func mustOpen(tb testing.TB, cfg Config, t scenario.Topology) *Cluster {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount)
	if t.Mesh == scenario.Duomesh {
		kernel.Require(tb, kernel.BPF)
	}
	if cfg.RunDir == "" {
		cfg.RunDir = tb.TempDir()
	}
	c, err := Open(testContext(tb), cfg, t)
	if err != nil {
		if errors.Is(err, scenario.ErrNotExpressible) {
			tb.Skipf("NOT RUN: %v", err)
		}
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return c
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	tb.Cleanup(cancel)
	return ctx
}

func mustResolve(tb testing.TB, c *Cluster, service string) netip.AddrPort {
	tb.Helper()
	a, err := c.Resolve(scenario.Target{Service: service, Port: 80})
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// dial makes n connections from a pod and returns the client's lines.
func dial(tb testing.TB, c *Cluster, from string, to scenario.Target, n int) []traffic.Conn {
	tb.Helper()
	addr, err := c.Resolve(to)
	if err != nil {
		tb.Fatal(err)
	}
	conns, err := c.Exec(testContext(tb), from, traffic.Load{To: addr, Connections: n, Workers: 4, Bytes: 64}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return conns
}

// tally counts by server, or by errno for connections without one.
func tally(conns []traffic.Conn) map[string]int {
	got := map[string]int{}
	for _, c := range conns {
		switch {
		case c.Errno != "":
			got[c.Op+" "+c.Errno]++
		default:
			got[c.Server]++
		}
	}
	return got
}

func wantTally(tb testing.TB, conns []traffic.Conn, key string, n int) {
	tb.Helper()
	if got := tally(conns); len(got) != 1 || got[key] != n {
		tb.Errorf("got %v, want %d of %q", got, n, key)
	}
}

func TestPodAddresses(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	for _, from := range []string{"client", "far", "v2"} {
		for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6, scenario.Mapped} {
			t.Run(from+"/"+string(f), func(t *testing.T) {
				conns := dial(t, c, from, scenario.Target{Pod: "v2", Port: 9090, Family: f}, 20)
				wantTally(t, conns, "v2", 20)
				for _, k := range conns {
					if k.Peer != k.Asked {
						t.Fatalf("peer is %s, asked was %s", k.Peer, k.Asked)
					}
				}
			})
		}
	}
	wantTally(t, dial(t, c, "client", scenario.Target{Pod: "v2", Port: 81}, 3), "connect ECONNREFUSED", 3)
}

func TestServedJoinsClients(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	sent := dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080}, 500)
	sent = append(sent, dial(t, c, "far", scenario.Target{Pod: "v1", Port: 8080, Family: scenario.IPv6}, 100)...)
	served, err := c.Served(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]traffic.Conn{}
	for pod, lines := range served {
		for _, l := range lines {
			if l.Server != pod || seen[l.ID].ID != 0 {
				t.Fatalf("line %+v of pod %s is of another pod, or twice", l, pod)
			}
			seen[l.ID] = l
		}
	}
	if len(seen) != len(sent) {
		t.Errorf("servers saw %d connections, clients made %d", len(seen), len(sent))
	}
	for _, s := range sent {
		if seen[s.ID].Peer != s.Local {
			t.Fatalf("connection %d left %s and came as %s", s.ID, s.Local, seen[s.ID].Peer)
		}
	}
}

func TestServiceWithoutMeshIsRefusedByPeer(t *testing.T) {
	c := mustOpen(t, Config{VIPs: map[string][]netip.Addr{"outside": {netip.MustParseAddr("172.20.0.9")}}}, twoNodes(scenario.NoMesh))
	o := canary(1, 1)
	o.Services = append(o.Services, o.Services[0])
	o.Services[1].Name, o.Services[1].Family = "outside", scenario.IPv4
	if err := c.Apply(testContext(t), o); err != nil {
		t.Fatal(err)
	}
	for _, to := range []scenario.Target{
		{Service: "fortio", Port: 80, Family: scenario.IPv4}, {Service: "fortio", Port: 80, Family: scenario.IPv6},
		{Service: "fortio", Port: 80, Family: scenario.Mapped}, {Service: "outside", Port: 80},
	} {
		wantTally(t, dial(t, c, "client", to, 5), "connect ECONNREFUSED", 5)
	}
}

func TestDNAT(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.DNAT))
	if err := c.Apply(testContext(t), canary(90, 10)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6, scenario.Mapped} {
		conns := dial(t, c, "client", scenario.Target{Service: "fortio", Port: 80, Family: f}, 400)
		got := tally(conns)
		if got["v1"]+got["v2"] != 400 || got["v1"] < 320 || got["v2"] == 0 {
			t.Errorf("%s: got %v, want about 360 of v1 and 40 of v2", f, got)
		}
	}
	// The pod behind a service reaches itself through it.
	got := tally(dial(t, c, "v1", scenario.Target{Service: "fortio", Port: 80}, 50))
	if got["v1"]+got["v2"] != 50 {
		t.Errorf("from the endpoint itself: %v, want 50 answered", got)
	}
	if err := c.Apply(testContext(t), canary(0, 1)); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", scenario.Target{Service: "fortio", Port: 80}, 100), "v2", 100)
	if err := c.Apply(testContext(t), canary(0, 0)); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", scenario.Target{Service: "fortio", Port: 80}, 10), "connect ECONNREFUSED", 10)
}

func TestDuomesh(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.Duomesh))
	if err := c.Apply(testContext(t), canary(90, 10)); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"client", "far"} {
		for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6, scenario.Mapped} {
			conns := dial(t, c, from, scenario.Target{Service: "fortio", Port: 80, Family: f}, 400)
			got := tally(conns)
			if got["v1"]+got["v2"] != 400 || got["v1"] < 320 || got["v2"] == 0 {
				t.Errorf("%s %s: got %v, want about 360 of v1 and 40 of v2", from, f, got)
			}
		}
	}
	vip := scenario.Target{Service: "fortio", Port: 80}
	wantTally(t, dial(t, c, "stranger", vip, 10), "connect ECONNREFUSED", 10)
	if err := c.Do(testContext(t), scenario.Enrol{Pod: "stranger"}); err != nil {
		t.Fatal(err)
	}
	if got := tally(dial(t, c, "stranger", vip, 10)); got["v1"]+got["v2"] != 10 {
		t.Errorf("after enrolment: %v, want 10 answered", got)
	}
	if err := c.Do(testContext(t), scenario.Leave{Pod: "stranger"}); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "stranger", vip, 10), "connect ECONNREFUSED", 10)
}

func TestStopServer(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	to := scenario.Target{Pod: "v2", Port: 8080}
	wantTally(t, dial(t, c, "client", to, 5), "v2", 5)
	if err := c.Do(testContext(t), scenario.StopServer{Pod: "v2"}); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", to, 5), "connect ECONNREFUSED", 5)
	if served, err := c.Served(testContext(t)); err != nil || len(served["v2"]) != 5 {
		t.Errorf("served %d lines, %v; want those of before", len(served["v2"]), err)
	}
}

func TestUnknownNames(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	o := canary(1, 1)
	o.Services[0].Endpoints[0].Pod = "v9"
	_, pod := c.Pod("v9")
	_, resolve := c.Resolve(scenario.Target{Service: "nobody", Port: 80})
	_, exec := c.Exec(t.Context(), "v9", traffic.Load{To: netip.MustParseAddrPort("10.1.1.1:80")}, nil)
	_, node := c.Node("z")
	for want, err := range map[string]error{
		`no pod "v9": there are client, far, stranger, v1, v2`: pod,
		`no service "nobody" has been applied`:                 resolve,
		`service fortio: no pod "v9"`:                          c.Apply(t.Context(), o),
		`no pod "v9": there`:                                   exec,
		`no node "z": there are [a b]`:                         node,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

package l4

import (
	"context"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// while repeats step until the client has asked all, and returns what it got.
func (p *wiredPod) while(tb testing.TB, q asking, step func(i int)) (got asked, steps int) {
	tb.Helper()
	done := make(chan asked, 1)
	go func() { done <- p.ask(tb, q) }()
	for {
		step(steps)
		steps++
		select {
		case got = <-done:
			return got, steps
		default:
		}
	}
}

// A service goes to a waypoint, past it, and to it again while connections are made:
// each reaches one of the two, and the waypoint always knows which address it was.
// The nodes hear of it one after the other, in both orders.
func TestWaypointComesAndGoesUnderTraffic(t *testing.T) {
	for name, q := range map[string]asking{
		"full": {N: 6000, Threads: 8, PlainToo: true},
		// The id must be known as long as some client may use it.
		"short": {N: 2000, Threads: 8, PlainToo: true, Proto: unix.IPPROTO_MPTCP},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWired(t)
			client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
			if q.Proto != 0 {
				client.needsMPTCP(t)
			}
			plain := w.pod(t, w.servers, "default/plain")
			plain.serve(t, listenHow{Port: 7001, Plain: true})
			services, asked4, asked6 := vips(many, waypointOf(way))
			var past []*intent.Service
			for _, svc := range services {
				svc.Endpoints = []intent.Endpoint{{Workload: workload("plain", plain.v4.String(), plain.v6.String())}}
				direct := *svc
				direct.Waypoint = nil
				past = append(past, &direct)
			}
			w.apply(t, intent.Snapshot{Services: services})
			q.To = append(asked4[:many/2:many/2], asked6[:many/2]...)
			if q.Proto != 0 {
				q.To = asked6
			}
			got, steps := client.while(t, q, func(i int) {
				s := intent.Snapshot{Services: [][]*intent.Service{past, services}[i%2]}
				both := []*Engine{w.server, w.client}
				if i/2%2 == 1 {
					both[0], both[1] = both[1], both[0]
				}
				for _, e := range both {
					must(t, e.Apply(context.Background(), s))
				}
			})
			t.Logf("%d connections over %d changes, %d went past the waypoint", got.Right, steps, got.Plain)
			if got.Right != q.N || got.Plain == 0 || got.Plain == q.N || steps < 4 {
				t.Errorf("over %d changes: %+v", steps, got)
			}
			audited(t, w.client)
			audited(t, w.server)
		})
	}
}

// Replicas come and go while connections are made: none is refused, none lost.
func TestReplicasComeAndGoUnderTraffic(t *testing.T) {
	w := newWired(t)
	client := w.enrolled(t, "default/client")
	one, two := w.waypoint(t, "default/one", listenHow{}), w.waypoint(t, "default/two", listenHow{})
	var versions []intent.Snapshot
	var asked4, asked6 []netip.AddrPort
	for _, replicas := range [][]*wiredPod{{one, two}, {one}, {one, two}, {two}} {
		var services []*intent.Service
		services, asked4, asked6 = vips(many, waypointOf(replicas...))
		versions = append(versions, intent.Snapshot{Services: services})
	}
	w.apply(t, versions[0])
	q := asking{N: 6000, Threads: 8, To: append(asked4[:many/2:many/2], asked6[:many/2]...)}
	got, steps := client.while(t, q, func(i int) { w.apply(t, versions[(i+1)%len(versions)]) })
	if got.Right != q.N || steps < 4 {
		t.Errorf("over %d changes: %+v", steps, got)
	}
	audited(t, w.client)

	// The control: one that is declared and answers nothing is noticed.
	must(t, w.server.StopWaypoint(one.Netns))
	w.apply(t, versions[0])
	if got := client.ask(t, asking{N: 200, Threads: 4, To: asked4}); got.Wrong == 0 || got.Right == 0 {
		t.Errorf("with a replica that is not served: %+v", got)
	}
}

// An engine is opened anew while connections are made, on either end.
func TestEnginesAreReplacedUnderTraffic(t *testing.T) {
	w := newWired(t)
	must(t, w.client.Close())
	must(t, w.server.Close())
	clients, servers := w.clients.pinned(bpffs(t)), w.servers.pinned(bpffs(t))
	w.client, w.server = mustOpen(t, clients, Options{}), mustOpen(t, servers, Options{})
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(many, waypointOf(way))
	s := intent.Snapshot{Services: services}
	w.apply(t, s)
	q := asking{N: 20_000, Threads: 4, To: append(asked4[:many/2:many/2], asked6[:many/2]...)}
	got, _ := client.while(t, q, func(i int) {
		must(t, w.client.Close())
		w.client = mustOpen(t, clients, Options{})
		must(t, w.server.Close())
		w.server = mustOpen(t, servers, Options{})
		w.apply(t, s)
	})
	if got.Right != q.N {
		t.Errorf("%+v", got)
	}
	must(t, w.client.Remove())
	must(t, w.server.Remove())
}

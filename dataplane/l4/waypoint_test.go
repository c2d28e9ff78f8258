package l4

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// Where there is one network namespace only, replicas listen at 7003.
func wayAt(addrs ...string) *intent.Waypoint {
	w := &intent.Waypoint{Name: "default/waypoint", Codec: intent.OriginalDst, Port: 7003}
	for i, a := range addrs {
		w.Endpoints = append(w.Endpoints, intent.Endpoint{Workload: workload("replica"+itoa(i), a)})
	}
	return w
}

// waypoints is a Snapshot that reaches every exit that has to do with one.
func waypoints() intent.Snapshot {
	both, only4 := wayAt("10.3.0.1", "fd00:3::1"), wayAt("10.3.0.1")
	ill := wayAt("10.3.0.2")
	ill.Endpoints[0].Workload.Unhealthy = true
	far := wayAt("10.3.0.2")
	far.Endpoints[0].Workload.Network = "net2"
	l7 := func(name, v4, v6 string, way *intent.Waypoint) *intent.Service {
		svc := service(name, []string{v4, v6}, []uint16{80}, workload(name, "10.1.0.1", "fd00:1::1"))
		svc.Ports = append(svc.Ports, intent.Port{Port: 80, Target: 7001, Protocol: intent.UDP})
		svc.Waypoint = way
		return svc
	}
	through := l7("through", "10.9.0.6", "fd00:9::6", both)
	through.Balance.Mode = intent.Passthrough
	pod := workload("pod", "10.1.0.7", "fd00:1::7")
	pod.Waypoint = both
	host := workload("host", "10.1.0.8")
	host.Waypoint, host.HostNetwork = both, true
	vip := workload("vip", "10.9.0.1") // a service has the address, too
	vip.Waypoint = both
	return intent.Snapshot{
		Services: []*intent.Service{
			l7("web", "10.9.0.1", "fd00:9::1", both), l7("four", "10.9.0.2", "fd00:9::2", only4),
			l7("ill", "10.9.0.3", "fd00:9::3", ill), l7("far", "10.9.0.4", "fd00:9::4", far),
			l7("none", "10.9.0.5", "fd00:9::5", wayAt()), through,
		},
		Workloads: []*intent.Workload{pod, host, vip},
	}
}

func TestDecisionsWithWaypoints(t *testing.T) {
	n := newNode(t)
	managed, unmanaged := n.pod(t, "default/managed"), n.pod(t, "default/unmanaged")
	e := n.open(t, Options{HidePeer: true})
	must(t, e.Apply(context.Background(), waypoints()))
	must(t, e.Enrol(managed.Pod))
	for _, c := range []struct {
		name   string
		from   *pod
		domain int
		to     string
		exit   intent.Exit
		peer   string // "": refused
	}{
		{"service v4", managed, v4, "10.9.0.1:80", intent.RedirectWaypoint, "10.3.0.1:7003"},
		{"service v6", managed, v6, "[fd00:9::1]:80", intent.RedirectWaypoint, "[fd00:3::1]:7003"},
		{"service v4-mapped", managed, v6, "[::ffff:10.9.0.1]:80", intent.RedirectWaypoint, "[::ffff:10.3.0.1]:7003"},
		{"no replica of the family", managed, v6, "[fd00:9::2]:80", intent.RefuseNoWaypoint, ""},
		{"a replica of the other family", managed, v4, "10.9.0.2:80", intent.RedirectWaypoint, "10.3.0.1:7003"},
		{"replica not healthy", managed, v4, "10.9.0.3:80", intent.RefuseNoWaypoint, ""},
		{"replica on another network", managed, v4, "10.9.0.4:80", intent.RefuseNoWaypoint, ""},
		{"no replica", managed, v4, "10.9.0.5:80", intent.RefuseNoWaypoint, ""},
		{"passthrough has a waypoint", managed, v4, "10.9.0.6:80", intent.RedirectWaypoint, "10.3.0.1:7003"},
		{"no port", managed, v4, "10.9.0.1:7001", intent.RefuseNoPort, ""},
		{"workload, any port", managed, v4, "10.1.0.7:7001", intent.RedirectWaypoint, "10.3.0.1:7003"},
		{"workload, any port v6", managed, v6, "[fd00:1::7]:12345", intent.RedirectWaypoint, "[fd00:3::1]:7003"},
		{"workload v4-mapped", managed, v6, "[::ffff:10.1.0.7]:80", intent.RedirectWaypoint, "[::ffff:10.3.0.1]:7003"},
		{"hostNetwork", managed, v4, "10.1.0.8:80", intent.PassNoVIP, "10.1.0.8:80"},
		{"the waypoint itself", managed, v4, "10.3.0.1:7003", intent.PassNoVIP, "10.3.0.1:7003"},
		{"unmanaged", unmanaged, v4, "10.9.0.1:80", intent.PassUnmanaged, "10.9.0.1:80"},
		{"unmanaged to the workload", unmanaged, v4, "10.1.0.7:80", intent.PassUnmanaged, "10.1.0.7:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := addrPort(c.to)
			want := intent.Decide(waypoints(), intent.Caller{Managed: c.from == managed, Place: here}, to, intent.TCP)
			if want.Exit != c.exit {
				t.Errorf("the model says %s", want.Exit)
			}
			var a answer
			exits := exitsOf(t, e, func() { a = c.from.dial(t, c.domain, to) })
			delete(exits, intent.Exit(HandoffFull))
			if !reflect.DeepEqual(exits, map[intent.Exit]uint64{c.exit: 1}) {
				t.Errorf("exits %v, want %v", exits, c.exit)
			}
			if c.peer == "" && a.Errno != unix.ECONNREFUSED || c.peer != "" && (a.Errno != 0 || a.Peer.String() != c.peer) {
				t.Errorf("errno %v, peer %v; want %q", a.Errno, a.Peer, c.peer)
			}
		})
	}
	t.Run("UDP goes to no waypoint", func(t *testing.T) {
		for _, to := range []string{"10.9.0.1:80", "10.9.0.5:80"} {
			a := managed.do(t, call{Op: "datagram", Domain: v4, To: addrPort(to)})
			if a.Errno != 0 || a.Peer != addrPort("10.1.0.1:7001") {
				t.Errorf("%s: %v, %v", to, a.Peer, a.Errno)
			}
		}
	})
	audited(t, e)
}

// getpeername answers the asked address, as for an endpoint.
func TestGetpeernameThroughAWaypoint(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	must(t, e.Apply(context.Background(), waypoints()))
	must(t, e.Enrol(p.Pod))
	for domain, asked := range map[int][]string{
		v4: {"10.9.0.1:80", "10.1.0.7:7001"}, v6: {"[fd00:9::1]:80", "[::ffff:10.9.0.1]:80"},
	} {
		for _, to := range asked {
			if a := p.dial(t, domain, addrPort(to)); a.Errno != 0 || a.Peer != addrPort(to) {
				t.Errorf("%s: errno %v, peer %v", to, a.Errno, a.Peer)
			}
		}
	}
}

func (e *Engine) hasHook(program string) bool {
	return slices.ContainsFunc(e.hooks, func(h *hook) bool { return h.program == program })
}

// Connections of a node without a waypoint pay nothing for the hand-off.
func TestSockOpsIsAttachedWhenItIsNeeded(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	if e.hasHook(meshProgMeshSockops) {
		t.Error("attached though no service has a waypoint")
	}
	must(t, e.Apply(context.Background(), waypoints()))
	if !e.hasHook(meshProgMeshSockops) {
		t.Error("not attached though services have a waypoint")
	}
	must(t, e.Enrol(p.Pod)) // confirmed with it
	other := newNode(t)
	way := other.pod(t, "default/waypoint")
	e = other.open(t, Options{})
	apply(t, e)
	must(t, e.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst))
	if !e.hasHook(meshProgMeshSockops) {
		t.Error("not attached though a waypoint is served")
	}
}

// A socket that connects again is handed off no more, or for the new address.
func TestReconnectAwayFromAWaypoint(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, _ := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	fd := client.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	connect := func(to string) {
		t.Helper()
		client.connect(t, fd, to, 0)
		if a := client.do(t, call{Op: "disconnect", FD: fd}); a.Errno != 0 {
			t.Fatalf("disconnect: %v", a.Errno)
		}
	}
	one := func(to string, want Event) {
		t.Helper()
		if _, server := w.passed(t, func() { connect(to) }); server[intent.Exit(want)] != 1 || len(server) != 1 {
			t.Errorf("%s: %v, want %s", to, server, want)
		}
	}
	direct := way.v4.String() + ":15029"
	one(asked4[0].String(), HandoffAnswered)
	one(direct, HandoffNoAnswer)
	one(asked4[1].String(), HandoffAnswered)
	must(t, w.client.Leave(client.Pod)) // no program that decides runs now
	one(direct, HandoffNoAnswer)
	client.do(t, call{Op: "close", FD: fd})
}

func TestServeAndStop(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, _ := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	version := func() answer { return way.do(t, call{Op: "version"}) }
	if a := version(); a.Errno != 0 || a.FD != handoff.Version {
		t.Errorf("version %d, %v", a.FD, a.Errno)
	}
	if a := client.do(t, call{Op: "version"}); a.Errno == 0 {
		t.Errorf("a pod that is no waypoint is told version %d", a.FD)
	}
	for range 3 {
		must(t, w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst)) // again
	}
	client.wantRight(t, asking{N: 20, To: asked4})
	ids, err := attached(way.Cgroup, ebpf.AttachCGroupGetsockopt, 0)
	if err != nil || len(ids) != 1 {
		t.Errorf("%d programs answer, %v", len(ids), err)
	}

	// Another port is another hand-off.
	must(t, w.server.ServeWaypoint(way.Cgroup, way.Netns, 15030))
	if got := client.ask(t, asking{N: 5, To: asked4}); got.Wrong != 5 {
		t.Errorf("after a change of the port: %+v", got)
	}
	// Back again: now its listener is older than that.
	err = w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst)
	if preparesListeners(t, w.server) {
		must(t, err)
		client.wantRight(t, asking{N: 20, To: asked4})
	} else {
		wantUnprepared(t, err)
	}
	audited(t, w.server)

	must(t, w.server.StopWaypoint(way.Netns))
	must(t, w.server.StopWaypoint(way.Netns))
	if a := version(); a.Errno == 0 {
		t.Errorf("after the end: version %d", a.FD)
	}
	if got := client.ask(t, asking{N: 5, To: asked4}); got.Wrong != 5 {
		t.Errorf("after the end: %+v", got)
	}
	audited(t, w.server)
	if err := w.server.Enrol(way.Pod); err != nil {
		t.Errorf("a pod that is a waypoint no more: %v", err)
	}

	// By the cookie alone, whichever it is.
	cookie, err := kernel.NetnsCookie(way.Netns)
	must(t, err)
	for _, again := range []func() error{
		func() error { return w.server.Enrol(way.Pod) },
		func() error {
			err := w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst)
			if preparesListeners(t, w.server) {
				return err
			}
			wantUnprepared(t, err)
			return nil
		},
	} {
		must(t, again())
		must(t, w.server.Forget(cookie))
		must(t, w.server.Forget(cookie))
		if a := version(); a.Errno == 0 || len(w.server.enrolled)+len(w.server.served) > 0 {
			t.Errorf("after the end: version %d, %v, %v", a.FD, w.server.enrolled, w.server.served)
		}
		audited(t, w.server)
	}
}

func TestServeRefuses(t *testing.T) {
	n, other := newNode(t), newNode(t)
	p, foreign := n.pod(t, "default/mine"), other.pod(t, "default/foreign")
	e := n.open(t, Options{Limits: Limits{Waypoints: 1}})
	for want, err := range map[string]error{
		"is not below the node's": e.ServeWaypoint(foreign.Cgroup, foreign.Netns, 15029),
		"are all needed":          e.ServeWaypoint(p.Cgroup, p.Netns, 0),
		"and port are all needed": e.ServeWaypoint(nil, p.Netns, 15029),
		"enter network namespace": e.ServeWaypoint(p.Cgroup, p.Cgroup, 15029),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	apply(t, e)
	must(t, e.ServeWaypoint(p.Cgroup, p.Netns, 15029))
	if err := e.Enrol(p.Pod); err == nil || !strings.Contains(err.Error(), "never managed") {
		t.Errorf("enrolling a waypoint: %v", err)
	}
	second := n.pod(t, "default/second")
	var full CapacityError
	if err := e.ServeWaypoint(second.Cgroup, second.Netns, 15029); !errors.As(err, &full) || full.Map != meshMapWaypoints {
		t.Errorf("got %v", err)
	}
	audited(t, e)
}

// The pin outlives the process, the next one takes it over, and what belongs to no
// pod any more goes.
func TestWaypointIsTakenOver(t *testing.T) {
	w := newWired(t)
	must(t, w.server.Close())
	h := w.servers.pinned(bpffs(t))
	w.server = mustOpen(t, h, Options{})
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, _ := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	client.wantRight(t, asking{N: 20, To: asked4})
	must(t, w.server.Close())
	client.wantRight(t, asking{N: 20, To: asked4})
	w.server = mustOpen(t, h, Options{})
	client.wantRight(t, asking{N: 20, To: asked4}) // before any Apply
	must(t, w.server.Apply(context.Background(), intent.Snapshot{Services: services}))
	audited(t, w.server)
	if used := usageOf(t, w.server, meshMapWaypoints).Used; used != 1 {
		t.Errorf("%d waypoints after the take-over", used)
	}
	must(t, w.server.Remove())
	if got := client.ask(t, asking{N: 5, To: asked4}); got.Wrong != 5 {
		t.Errorf("after Remove: %+v", got)
	}
}

// An id that two frontends have is used by neither: what fits goes in full, what
// does not is refused by the waypoint, and counted.
func TestSharedIDsAreNotUsed(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	client.needsMPTCP(t)
	services, _, asked6 := vips(3, waypointOf(way))
	twins := []meshFrontendKey{tcpKey(asked6[0].Addr(), asked6[0].Port()), tcpKey(asked6[1].Addr(), asked6[1].Port())}
	for _, e := range []*Engine{w.client, w.server} {
		e.state.id = func(network string, k meshFrontendKey) uint32 {
			if slices.Contains(twins, k) {
				return 7
			}
			return handoffID(network, k)
		}
	}
	mptcp := asking{N: 10, Proto: unix.IPPROTO_MPTCP}
	w.apply(t, intent.Snapshot{Services: services[:1]})
	mptcp.To = asked6[:1]
	w.wantEvents(t, 10, []Event{HandoffShort, HandoffAnswered}, func() { client.wantRight(t, mptcp) })

	w.apply(t, intent.Snapshot{Services: services}) // its twin has come
	mptcp.To = asked6[:2]
	w.wantEvents(t, 10, []Event{HandoffUnsent, HandoffNoAnswer}, func() {
		if got := client.ask(t, mptcp); got.Wrong != 10 || !strings.Contains(got.Wrongs[0], "E") {
			t.Errorf("%+v", got)
		}
	})
	client.wantRight(t, asking{N: 10, To: asked6[:2]})
	mptcp.To = asked6[2:]
	client.wantRight(t, mptcp)
	audited(t, w.client)

	// A node that knows only one of the two does not guess.
	must(t, w.client.Apply(context.Background(), intent.Snapshot{Services: services[:1]}))
	mptcp.To = asked6[:1]
	w.wantEvents(t, 10, []Event{HandoffShort, HandoffUnknownID}, func() {
		if got := client.ask(t, mptcp); got.Wrong != 10 {
			t.Errorf("%+v", got)
		}
	})
	w.apply(t, intent.Snapshot{Services: services[:1]}) // the twin has gone
	client.wantRight(t, mptcp)
	audited(t, w.server)
}

// Other questions of the waypoint's process are answered by the kernel as before.
func TestOtherSocketOptionsStand(t *testing.T) {
	w := newWired(t)
	way := w.waypoint(t, "default/waypoint", listenHow{})
	plain := w.pod(t, w.servers, "default/plain")
	for _, p := range []*wiredPod{way, plain} {
		if a := p.do(t, call{Op: "options"}); a.Errno != 0 {
			t.Errorf("%s: %v", p.Name, a.Errno)
		}
	}
}

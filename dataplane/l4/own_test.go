package l4

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// decidedLikeModel applies a Snapshot and holds connections to addresses against the
// model, and the maps against those of an engine that knows nothing else.
func decidedLikeModel(t *testing.T, e *Engine, p *pod, s intent.Snapshot, want map[string]intent.Exit) {
	t.Helper()
	must(t, e.Apply(context.Background(), s))
	for to, exit := range want {
		d := intent.Decide(s, intent.Caller{Managed: true, Place: here}, addrPort(to), intent.TCP)
		var a answer
		exits := exitsOf(t, e, func() { a = p.dial(t, v4, addrPort(to)) })
		if d.Exit != exit || exits[exit] != 1 || !agrees(d, addrPort(to), a) {
			t.Errorf("%s: the model says %s, the kernel %v (%v, errno %v); want %s", to, d.Exit, exits, a.Peer, a.Errno, exit)
		}
	}
	audited(t, e)
	fresh := mustOpen(t, newNode(t).host(), Options{})
	defer fresh.Close()
	must(t, fresh.Apply(context.Background(), s))
	if diff := cmp.Diff(dump(t, fresh), dump(t, e)); diff != "" {
		t.Errorf("the maps differ from a fresh load (-fresh +changed):\n%s", diff)
	}
}

// Whoever comes first and whoever goes: a service that lets connections pass opens no way
// round a workload at its address.
func TestPassthroughAtAWorkloadsAddress(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	must(t, e.Enrol(p.Pod))
	through := service("through", []string{"10.1.0.7", "10.1.0.8"}, []uint16{80, 7001})
	through.Balance.Mode = intent.Passthrough
	other := service("other", []string{"10.1.0.9"}, []uint16{80})
	taken, barred, far := workload("taken", "10.1.0.7"), workload("barred", "10.1.0.7"), workload("far", "10.1.0.8")
	taken.Waypoint, barred.Unprotected = wayAt("10.3.0.1"), true
	far.Waypoint, far.Network = taken.Waypoint, "net2"
	s := func(services []*intent.Service, workloads ...*intent.Workload) intent.Snapshot {
		return intent.Snapshot{Services: services, Workloads: workloads}
	}
	with, without := []*intent.Service{other, through}, []*intent.Service{other}
	exits := func(at80, at7002 intent.Exit) map[string]intent.Exit {
		rest := intent.PassPassthrough
		if at7002 != intent.RefuseNoPort {
			rest = intent.PassNoVIP
		}
		return map[string]intent.Exit{"10.1.0.7:80": at80, "10.1.0.7:7001": at80, "10.1.0.7:7002": at7002, "10.1.0.8:80": rest}
	}
	const pass, way, no, refused = intent.PassPassthrough, intent.RedirectWaypoint, intent.RefuseNoPort, intent.RefusePolicy
	decidedLikeModel(t, e, p, s(with), exits(pass, no))
	decidedLikeModel(t, e, p, s(with, far, taken), exits(way, no))
	decidedLikeModel(t, e, p, s(with, far, taken, barred), exits(refused, no))
	decidedLikeModel(t, e, p, s(without, far, taken, barred), exits(refused, refused))
	decidedLikeModel(t, e, p, s(without, far, taken), exits(way, way))
	decidedLikeModel(t, e, p, s(with, far, taken), exits(way, no))
	decidedLikeModel(t, e, p, s(with, far), exits(pass, no))
}

// A kernel that cannot hand over in a waypoint's way refuses what is to go there, and
// carries out all else of the Snapshot.
func TestKernelWithoutAHandoff(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	must(t, e.Enrol(p.Pod))
	e.noHandoff, e.noHeaders = errors.New("this kernel has no sockops"), errors.New("this kernel has no sk_msg")
	option, header := wayAt("10.3.0.1"), wayAt("10.3.0.1")
	header.Name, header.Codec = "default/header", intent.ProxyV2
	plain, l7, l7too := service("plain", []string{"10.9.0.1"}, []uint16{80}, workload("a", "10.1.0.1")),
		service("l7", []string{"10.9.0.2"}, []uint16{80}, workload("a", "10.1.0.1")),
		service("l7too", []string{"10.9.0.3"}, []uint16{80}, workload("a", "10.1.0.1"))
	own := workload("own", "10.1.0.7")
	l7.Waypoint, l7too.Waypoint, own.Waypoint = option, header, option
	s := intent.Snapshot{Services: []*intent.Service{plain, l7, l7too}, Workloads: []*intent.Workload{own}}
	must(t, e.Apply(context.Background(), s))
	for to, want := range map[string]intent.Exit{
		"10.9.0.1:80": intent.Redirect, "10.9.0.2:80": intent.RefuseNoWaypoint, "10.9.0.3:80": intent.RefuseNoWaypoint,
		"10.1.0.7:80": intent.RefuseNoWaypoint,
	} {
		if exits := exitsOf(t, e, func() { p.dial(t, v4, addrPort(to)) }); exits[want] != 1 || len(exits) != 1 {
			t.Errorf("%s: %v, want %s", to, exits, want)
		}
	}
	audited(t, e)
	says := e.Unserved()
	if len(says) != 2 || !strings.Contains(says[0], "default/header: TCP connections to the 1 services and workloads") ||
		!strings.Contains(says[0], "sk_msg") || !strings.Contains(says[1], "to the 2 services") || !strings.Contains(says[1], "sockops") {
		t.Errorf("it says %q", says)
	}
	must(t, e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{plain}}))
	if says := e.Unserved(); len(says) > 0 {
		t.Errorf("it says %q of what is gone", says)
	}
	// The control: a kernel that can.
	e.noHandoff, e.noHeaders = nil, nil
	must(t, e.Apply(context.Background(), s))
	if exits := exitsOf(t, e, func() { p.dial(t, v4, addrPort("10.9.0.2:80")) }); exits[intent.RedirectWaypoint] != 1 {
		t.Errorf("%v", exits)
	}
}

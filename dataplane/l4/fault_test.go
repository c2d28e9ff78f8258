package l4

import (
	"context"
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// failing is a map of which every write fails, in the place of another one until
// the returned function is called.
func failing(t *testing.T, at **ebpf.Map) (mend func()) {
	t.Helper()
	good := *at
	bad, err := good.Clone()
	must(t, err)
	must(t, bad.Close())
	*at = bad
	return func() { *at = good }
}

// An enrolment whose second map could not be written is no enrolment, and the next
// one writes what is missing.
func TestEnrolAfterAFailedWrite(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	mend := failing(t, &e.pods.m)
	if e.Enrol(p.Pod) == nil {
		t.Error("enrolled, although map pods could not be written")
	}
	mend()
	must(t, e.Enrol(p.Pod))
	exits := exitsOf(t, e, func() { p.dial(t, v4, addrPort("10.9.0.1:80")) })
	if exits[intent.Redirect] != 1 {
		t.Errorf("exits %v", exits)
	}
	audited(t, e)
}

// Enrol confirms what the programs read: both maps.
func TestEnrolRepairsEitherMap(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e)
	must(t, e.Enrol(p.Pod))
	cookie, err := kernel.NetnsCookie(p.Netns)
	must(t, err)
	for name, spoil := range map[string]func() error{
		meshMapPods:    func() error { return e.pods.m.Put(placeOf(cookie), uint64(0)) },
		meshMapManaged: func() error { return e.managed.m.Delete(cookie) },
	} {
		must(t, spoil())
		if found, err := e.Audit(); err != nil || len(found) == 0 {
			t.Fatalf("%s: audit %v, %v", name, found, err)
		}
		must(t, e.Enrol(p.Pod))
		audited(t, e)
	}
}

// What an Apply leaves behind that failed after its frontends were written may be in
// use by a program: an Apply that fails earlier does not free it.
func TestFailedApplyFreesOnlyItsOwnSlots(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	apply(t, e, trio(1, 2, 3))
	old := setOf(e.state.fronts[frontendKey(intent.Frontend{Addr: addr("10.9.0.1"), Port: 80, Protocol: intent.UDP})])
	fails := func(services ...*intent.Service) {
		t.Helper()
		if e.Apply(context.Background(), intent.Snapshot{Services: services}) == nil {
			t.Fatal("applied")
		}
	}
	mend := failing(t, &e.grace.outer)
	fails(trio(4, 5)) // nobody waited for the programs that hold the first set
	mend()
	mend = failing(t, &e.slots.m)
	fails(trio(6, 7))
	mend()
	if e.state.sizes[old] != 3 || e.state.ranges.mark(span{old.set, 1}) {
		t.Errorf("set %v of the first Apply is free, no grace period after it was replaced", old)
	}
	apply(t, e, trio(6, 7))
	if e.state.sizes[old] != 0 || len(e.state.loose) > 0 {
		t.Errorf("sets are left: %v, %v", e.state.sizes, e.state.loose)
	}
	audited(t, e)
}

// An Apply that failed in the middle can be done, also where its slots have no room
// beside those that it has written already and those that it replaces.
func TestFailedApplyIsDoneInTheEnd(t *testing.T) {
	three := func(first int) *intent.Service {
		var ws []*intent.Workload
		for i := first; i < first+3; i++ {
			ws = append(ws, workload("w"+itoa(i), "10.1.0."+itoa(i)))
		}
		return service("web", []string{"10.9.0.1", "10.9.0.2"}, []uint16{80}, ws...)
	}
	next := intent.Snapshot{Services: []*intent.Service{three(4)}}
	refuse := func(t *testing.T, e *Engine, at **ebpf.Map) {
		mend := failing(t, at)
		defer mend()
		var partial PartialError
		for range 3 {
			if err := e.Apply(context.Background(), next); !errors.As(err, &partial) {
				t.Fatalf("got %v, want that the kernel refused it", err)
			}
		}
	}
	for name, fail := range map[string]func(*testing.T, *Engine){
		"before the first frontend": func(t *testing.T, e *Engine) { refuse(t, e, &e.frontends.m) },
		"after the last one":        func(t *testing.T, e *Engine) { refuse(t, e, &e.grace.outer) },
		"between two": func(t *testing.T, e *Engine) {
			p, err := e.prepare(context.Background(), next)
			must(t, err)
			for _, set := range p.sets {
				must(t, e.slots.put(slotsOf(set)))
			}
			must(t, e.frontends.put(p.putKeys[:1], p.put[:1]))
			e.state.torn, e.state.failed = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			p := n.pod(t, "default/client")
			e := n.open(t, Options{HidePeer: true, Limits: Limits{Slots: 8}})
			must(t, e.Enrol(p.Pod))
			apply(t, e, three(1))
			fail(t, e)
			must(t, e.Apply(context.Background(), next))
			audited(t, e)
			for _, to := range []string{"10.9.0.1:80", "10.9.0.2:80"} {
				if a := p.dial(t, v4, addrPort(to)); a.Errno != 0 || a.Peer.Addr().Less(addr("10.1.0.4")) {
					t.Errorf("%s: errno %v, peer %v", to, a.Errno, a.Peer)
				}
			}
			if used := usageOf(t, e, meshMapSlots).Used; used != 3 {
				t.Errorf("%d slots in use, want 3", used)
			}
		})
	}
}

package l4

import (
	"context"
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

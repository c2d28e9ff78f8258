package l4

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// A new process keeps what it finds in the kernel and what is to stay: it needs room
// for what differs alone, and connected UDP flows keep their sets.
func TestRestartNeedsRoomForWhatDiffersAlone(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	o := Options{HidePeer: true, Limits: Limits{Slots: 8}}
	var ws []*intent.Workload
	for i := range 6 {
		ws = append(ws, workload("w"+itoa(i), "10.1.0."+itoa(i+1)))
	}
	way := &intent.Waypoint{Name: "default/way", Codec: intent.OriginalDst, Port: 7002, Endpoints: []intent.Endpoint{{Workload: ws[0]}}}
	web, one := service("web", []string{"10.9.0.1"}, []uint16{80, 7003}, ws[:5]...), service("one", []string{"10.9.0.2"}, []uint16{80}, ws[5])
	l7 := service("l7", []string{"10.9.0.3"}, []uint16{80}, ws[1])
	l7.Waypoint = way
	e := mustOpen(t, h, o)
	must(t, e.Enrol(p.Pod))
	apply(t, e, web, one, l7)
	before, names := dump(t, e), e.state.fronts
	must(t, e.Close())
	for range 3 {
		e = mustOpen(t, h, o)
		apply(t, e, web, one, l7)
		audited(t, e)
		if wrote := e.writes(); wrote > 2 { // that nothing is being replaced
			t.Errorf("%d writes for the same Snapshot", wrote)
		}
		if diff := cmp.Diff(before, dump(t, e)); diff != "" {
			t.Error(diff)
		}
		for k, v := range e.state.fronts {
			if names[k] != v {
				t.Errorf("%s was %v and is %v", keyString(k), names[k], v)
			}
		}
		must(t, e.Close())
	}

	// One of the three has changed while no process ran: there is room for it.
	e = mustOpen(t, h, o)
	apply(t, e, web, service("one", []string{"10.9.0.2"}, []uint16{80}, ws[4]), l7)
	must(t, connected(t, p, "10.9.0.2:80", "10.1.0.5:7001"))
	must(t, connected(t, p, "10.9.0.3:80", "10.1.0.1:7002"))
	audited(t, e)
	if used := usageOf(t, e, meshMapSlots).Used; used != 7 {
		t.Errorf("%d slots in use, want 7", used)
	}
	must(t, e.Close())

	// The control: what differs and does not fit beside what is there is refused.
	e = mustOpen(t, h, o)
	var full CapacityError
	err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{service("web", []string{"10.9.0.1"}, []uint16{80, 7003}, ws[1:]...)}})
	if !errors.As(err, &full) || full.Need != 12 {
		t.Errorf("got %v, want a CapacityError", err)
	}
	must(t, e.Remove())
}

// What only looks alike is written anew: a set whose slots somebody has changed, and one
// that two services had and of which each may change now.
func TestRestartTrustsNoSlotThatDiffers(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	a := workload("a", "10.1.0.1")
	both := service("both", []string{"10.9.0.1", "10.9.0.2"}, []uint16{80}, a)
	e := mustOpen(t, h, Options{HidePeer: true})
	must(t, e.Enrol(p.Pod))
	apply(t, e, both)
	must(t, e.Close())

	e = mustOpen(t, h, Options{HidePeer: true})
	one, two := service("one", []string{"10.9.0.1"}, []uint16{80}, a), service("two", []string{"10.9.0.2"}, []uint16{80}, a)
	apply(t, e, one, two)
	if used := usageOf(t, e, meshMapSlots).Used; used != 2 {
		t.Errorf("%d slots in use, want one for each service", used)
	}
	for _, v := range e.state.fronts {
		if v.Slots == 0 {
			continue
		}
		var slot meshSlot
		must(t, e.slots.m.Lookup(v.Set, &slot))
		slot.First, slot.Second = addrWords(addr("10.1.0.9")), addrWords(addr("10.1.0.9"))
		must(t, e.slots.m.Put(v.Set, slot))
	}
	must(t, e.Close())
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.9:7001"))
	e = mustOpen(t, h, Options{HidePeer: true})
	apply(t, e, one, two)
	audited(t, e)
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	must(t, e.Remove())
}

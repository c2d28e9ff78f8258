package l4

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// A mesh of 10 000 services and 100 000 endpoints fits into the default limits,
// every entry is in the kernel as it should be, and connections get there. What
// does not fit is refused before the first write.
func TestLargeMesh(t *testing.T) {
	const services = 10_000
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	s := large(services)
	must(t, e.Apply(context.Background(), s))
	must(t, e.Enrol(p.Pod))
	audited(t, e)
	for name, want := range map[string]uint32{meshMapFrontends: 2 * services, meshMapSlots: services * endpointsEach} {
		if u := usageOf(t, e, name); u.Used != want {
			t.Errorf("map %s: %d in use, want %d", name, u.Used, want)
		}
	}
	sample(t, e, p, s, 300)

	// One more endpoint of every service: old and new do not fit side by side.
	var grown []*intent.Service
	for i := range services {
		grown = append(grown, largeService(i, endpointsEach+1))
	}
	before := e.writes()
	err := e.Apply(context.Background(), intent.Snapshot{Services: grown})
	var full CapacityError
	if !errors.As(err, &full) || full.Map != meshMapSlots || full.Need <= full.Have {
		t.Errorf("got %v, want a CapacityError of slots", err)
	}
	if e.writes() != before {
		t.Error("a Snapshot that does not fit was written in part")
	}
	sample(t, e, p, s, 100)

	// A change is compared and written, and only it.
	s = oneChanged(s, 4711, 7)
	before = e.writes()
	planned, err := e.prepare(context.Background(), s)
	must(t, err)
	if n := len(planned.keys); n != 2 {
		t.Errorf("%d frontends are compared for one endpoint, want one, and its address", n)
	}
	must(t, e.Apply(context.Background(), s))
	if wrote := e.writes() - before; wrote != endpointsEach+1 {
		t.Errorf("%d writes for one endpoint, want %d slots and a frontend", wrote, endpointsEach)
	}
	audited(t, e)
	for range 20 {
		connectsAsDecided(t, p, s, 4711)
	}
}

// sample connects to random services.
func sample(t *testing.T, e *Engine, p *pod, s intent.Snapshot, times int) {
	t.Helper()
	exits := exitsOf(t, e, func() {
		for range times {
			connectsAsDecided(t, p, s, rand.IntN(len(s.Services)))
		}
	})
	if exits[intent.Redirect] != uint64(times) || len(exits) != 1 {
		t.Errorf("exits %v, want %d redirects", exits, times)
	}
}

func connectsAsDecided(t *testing.T, p *pod, s intent.Snapshot, i int) {
	t.Helper()
	svc := s.Services[i]
	a := p.dial(t, v4, addrPort(svc.Addresses[0].String()+":80"))
	// Of the service alone: a Snapshot of this size is decided slowly.
	alone := intent.Snapshot{Services: []*intent.Service{svc}}
	want := intent.Decide(alone, intent.Caller{Managed: true, Place: here}, addrPort(svc.Addresses[0].String()+":80"), intent.TCP)
	if !agrees(want, addrPort(svc.Addresses[0].String()+":80"), a) {
		t.Errorf("%s: errno %v, peer %v", svc.Key(), a.Errno, a.Peer)
	}
}

package l4

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// rivals are two services whose endpoints are apart, in version i: the number
// and order of endpoints, the weights and the target port change.
func rivals(i int) ([]*intent.Service, map[string][]string) {
	all := [][]*intent.Workload{
		{workload("a1", "10.1.0.1", "fd00:1::1"), workload("a2", "10.1.0.2", "fd00:1::2"), workload("a3", "10.1.0.3", "fd00:1::3")},
		{workload("b1", "10.2.0.1", "fd00:2::1"), workload("b2", "10.2.0.2", "fd00:2::2"), workload("b3", "10.2.0.3", "fd00:2::3")},
	}
	vips := [][]string{{"10.9.0.1", "fd00:9::1"}, {"10.9.0.2", "fd00:9::2"}}
	var services []*intent.Service
	allowed := map[string][]string{}
	for s, ws := range all {
		for j, w := range ws {
			w.Weight = uint32(1 + (i+j)%5)
			for _, vip := range vips[s] {
				for _, a := range w.Addresses {
					if a.Is4() == addr(vip).Is4() {
						ask, peer := join(vip, 80), join(a.String(), 7001+uint16(s))
						allowed[ask] = append(allowed[ask], peer)
					}
				}
			}
		}
		svc := service([]string{"a", "b"}[s], vips[s], []uint16{80}, ws[:1+i%3]...)
		svc.Ports[0].Target = 7001 + uint16(s)
		services = append(services, svc)
	}
	return services, allowed
}

func join(host string, port uint16) string {
	if addr(host).Is6() {
		return "[" + host + "]:" + itoa(int(port))
	}
	return host + ":" + itoa(int(port))
}

const replacing = 3 * time.Second

// goesOn reports whether traffic that began at a time is to go on: a while, and on a
// slow machine until so many connections were redirected and what else is wanted is
// there.
func goesOn(tb testing.TB, e *Engine, start time.Time, connections uint64, enough bool) bool {
	tb.Helper()
	switch passed := time.Since(start); {
	case passed < replacing:
		return true
	case passed > 20*replacing:
		return false
	}
	return !enough || counts(tb, e)[intent.Redirect] < connections
}

// Services are replaced at full speed while 8 threads connect: no connection is
// refused, and none reaches an endpoint of the other service.
func TestReplacementUnderTraffic(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	services, allowed := rivals(0)
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	var asked []string
	for ask := range allowed {
		asked = append(asked, ask)
	}
	slices.Sort(asked)
	versions := 0
	all := p.hammering(t, asked, func() {
		for start := time.Now(); goesOn(t, e, start, 1000, versions >= 10); {
			versions++
			services, _ := rivals(versions)
			apply(t, e, services...)
		}
	})
	refused, misrouted, total := badly(all, allowed)
	events, err := e.Events()
	must(t, err)
	t.Logf("%d connections over %d versions, events %v", total, versions, events)
	if refused+misrouted > 0 || events[RefuseSlotMiss] > 0 {
		t.Errorf("refused %d, misrouted %d: %v", refused, misrouted, all)
	}
	if total < 1000 || versions < 10 {
		t.Errorf("only %d connections and %d versions: nothing was shown", total, versions)
	}
	audited(t, e)
}

// The same without the grace periods between two flips of one frontend, which Apply
// waits for: frontends flip as fast as the kernel takes them, so that the memory of one
// is reused for the other while programs read it. No torn value is ever believed. A
// program that is overtaken by a flip at both of its looks refuses and says so, which
// takes a kernel that stops programs for others (PREEMPT), twice within one: at most
// one in a thousand.
func TestFlipsWithoutPause(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	services, allowed := rivals(0)
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	asked := []string{"10.9.0.1:80", "10.9.0.2:80"}
	flips := 0
	all := p.hammering(t, asked, func() {
		for start := time.Now(); goesOn(t, e, start, 1000, flips >= 10_000); {
			for _, ask := range asked {
				k := tcpKey(addrPort(ask).Addr(), 80)
				must(t, e.frontends.m.Put(k, e.state.fronts[k]))
				flips++
			}
		}
	})
	refused, misrouted, total := badly(all, allowed)
	events, err := e.Events()
	must(t, err)
	t.Logf("%d connections over %d flips, events %v", total, flips, events)
	if misrouted > 0 || uint64(refused) != events[RefuseSlotMiss] || refused > total/1000 {
		t.Errorf("refused %d, misrouted %d: %v", refused, misrouted, all)
	}
	if total < 1000 || flips < 10_000 {
		t.Errorf("only %d connections and %d flips: nothing was shown", total, flips)
	}
}

// crowd is many services in few buckets, so that the neighbours of a frontend
// in its bucket are replaced while it is looked up.
const crowd = 32

func crowded() ([]*intent.Service, []string, map[string][]string) {
	var services []*intent.Service
	var asked []string
	allowed := map[string][]string{}
	for s := range crowd {
		ask := join("10.9.1."+itoa(s+1), 80)
		backend := workload("w"+itoa(s), "10.1.1."+itoa(s+1))
		services = append(services, service("s"+itoa(s), []string{"10.9.1." + itoa(s+1)}, []uint16{80}, backend))
		asked = append(asked, ask)
		allowed[ask] = []string{join("10.1.1."+itoa(s+1), 7001)}
	}
	return services, asked, allowed
}

// Neighbours in one bucket of the hash are replaced as fast as the kernel takes
// them: no lookup may take that for an unknown address or port. It goes on until
// a lookup has met a replacement.
func TestCrowdedFlips(t *testing.T) {
	wrong, total, events := crowdedFlips(t, true, func(e *Engine) bool {
		events, err := e.Events()
		must(t, err)
		return events[Retry] > 0
	})
	t.Logf("%d connections, %d not redirected, events %v", total, wrong, events)
	if wrong > 0 || events[RefuseSlotMiss] > 0 {
		t.Errorf("%d of %d connections were not redirected", wrong, total)
	}
	if events[Retry] == 0 {
		t.Skip("NOT RUN: no lookup met a replacement on this machine")
	}
}

// The control: where the programs are not told, a lookup that meets a
// replacement takes a service's address for unknown.
func TestCrowdedFlipsUntoldAreCaught(t *testing.T) {
	wrong, total, _ := crowdedFlips(t, false, func(e *Engine) bool {
		exits, err := e.Exits()
		must(t, err)
		return exits[intent.RefuseNoPort]+exits[intent.PassNoVIP] > 0
	})
	t.Logf("%d connections, %d not redirected", total, wrong)
	if wrong == 0 {
		t.Skip("NOT RUN: no lookup met a replacement on this machine")
	}
}

// crowdedFlips replaces frontends without a pause under 8 connectors until
// enough says so, but not for ever.
func crowdedFlips(t *testing.T, told bool, enough func(*Engine) bool) (wrong, total int, events map[Event]uint64) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true, Limits: Limits{Frontends: 2 * crowd}})
	services, asked, allowed := crowded()
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	must(t, e.flipping(told))
	keys, values := slices.Collect(maps.Keys(e.state.fronts)), []meshFrontend(nil)
	for _, k := range keys {
		values = append(values, e.state.fronts[k])
	}
	all := p.hammering(t, asked, func() {
		for end := time.Now().Add(8 * replacing); time.Now().Before(end) && !enough(e); {
			for range 100 {
				must(t, e.frontends.put(keys, values))
			}
		}
	})
	refused, misrouted, total := badly(all, allowed)
	events, err := e.Events()
	must(t, err)
	return refused + misrouted, total, events
}

// The control: a mesh broken from outside, which takes live slots out of
// their set before it writes them again, must be caught as refusals and counted.
func TestDeletingFirstIsCaught(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	services, allowed := rivals(0)
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	set := e.state.byName["default/a"].sets[0]
	keys, values := slotsOf(set)
	gone := slices.Clone(values)
	for i := range gone {
		gone[i].Generation = 0
	}
	ended, cancel := context.WithTimeout(context.Background(), replacing)
	defer cancel()
	all := p.hammering(t, []string{"10.9.0.1:80"}, func() {
		for ended.Err() == nil {
			must(t, e.slots.put(keys, gone))
			must(t, e.slots.put(keys, values))
		}
	})
	refused, misrouted, total := badly(all, allowed)
	events, err := e.Events()
	must(t, err)
	if refused == 0 || misrouted > 0 || events[RefuseSlotMiss] != uint64(refused) || events[Retry] < uint64(refused) {
		t.Errorf("refused %d, misrouted %d of %d, events %v", refused, misrouted, total, events)
	}
	for _, one := range all {
		if one.Errno != 0 && one.Errno != unix.ECONNREFUSED {
			t.Errorf("a connection ended with %v", one.Errno)
		}
	}
}

// A value that was written for another frontend is not believed: this is what a
// program reads when the memory of an element is reused under its eyes.
func TestForeignAndTornValuesAreNotBelieved(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	services, _ := rivals(0)
	apply(t, e, services...)
	must(t, e.Enrol(p.Pod))
	mine, other := tcpKey(addr("10.9.0.1"), 80), tcpKey(addr("10.9.0.2"), 80)
	torn := e.state.fronts[mine]
	torn.TargetPort = e.state.fronts[other].TargetPort
	for name, v := range map[string]meshFrontend{"foreign": e.state.fronts[other], "torn": torn} {
		must(t, e.frontends.m.Put(mine, v))
		exits := exitsOf(t, e, func() {
			if a := p.dial(t, v4, addrPort("10.9.0.1:80")); a.Errno != unix.ECONNREFUSED {
				t.Errorf("%s: connected to %v, %v", name, a.Peer, a.Errno)
			}
		})
		if exits[intent.Exit(Retry)] != 1 || exits[intent.Exit(RefuseSlotMiss)] != 1 {
			t.Errorf("%s: %v", name, exits)
		}
	}
}

// What Shown dates is that the kernel decides by the new Snapshot: before the wait
// for those that began earlier, connections go to the new endpoint.
func TestShownBeforeOthersEnd(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true})
	if !e.Shown().IsZero() {
		t.Error("shown before the first Apply")
	}
	must(t, e.Enrol(p.Pod))
	apply(t, e, service("a", []string{"10.9.0.1"}, []uint16{80}, workload("old", "10.1.0.1")))
	first := e.Shown()
	if first.IsZero() {
		t.Fatal("an Apply has not been shown")
	}
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	next, err := e.prepare(t.Context(), intent.Snapshot{Services: []*intent.Service{
		service("a", []string{"10.9.0.1"}, []uint16{80}, workload("new", "10.1.0.2")),
	}})
	must(t, err)
	must(t, e.show(next))
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.2:7001"))
	must(t, e.settle(next))
	e.state.adopt(next)
	apply(t, e, service("a", []string{"10.9.0.1"}, []uint16{80}, workload("old", "10.1.0.1")))
	if !e.Shown().After(first) {
		t.Error("the second Apply has not been shown")
	}
	audited(t, e)
}

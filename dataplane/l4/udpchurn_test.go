package l4

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// datagramsEnv overrides how many datagrams the churn sees.
const datagramsEnv = "DUOMESH_DATAGRAMS"

// Endpoints come and go at full speed while sockets ask: no datagram is refused,
// lost, or sent to an endpoint of the other service, and each reply shows the address
// asked.
func TestDatagramsUnderChurn(t *testing.T) {
	want := int(fromEnv(t, datagramsEnv, 100_000))
	e, p := mesh(t, udpRivals(0)...)
	tallies, n := churnUDP(t, e, p, want)
	for _, bad := range misheard(tallies) {
		t.Errorf("%+v", bad)
	}
	t.Logf("%d datagrams, %d changes", sumOf(tallies), n)
	events, err := e.Events()
	must(t, err)
	for _, never := range []Event{RefuseSlotMiss, RefuseNoFlow, FlowEvicted, FlowShared} {
		if events[never] > 0 {
			t.Errorf("%s: %d", never, events[never])
		}
	}
	audited(t, e)
}

// udpRivals are two services of which endpoints come and go, those of the one on ..0.x
// and :1::x, of the other on ..1.x and :2::x.
func udpRivals(change int) []*intent.Service {
	sets := [][]int{{1, 2, 3}, {2, 3}, {4, 5, 6, 7}, {1}, {7, 1}, {3, 5}}
	var all []*intent.Service
	for s := range 2 {
		var ws []*intent.Workload
		for _, i := range sets[(change+s)%len(sets)] {
			ws = append(ws, workload(fmt.Sprintf("w%d-%d", s, i), fmt.Sprintf("10.1.%d.%d", s, i), fmt.Sprintf("fd00:%d::%d", 1+s, i)))
		}
		all = append(all, udpService("s"+itoa(s), []string{fmt.Sprintf("10.9.%d.1", s), fmt.Sprintf("fd00:%d::1", 9+s)}, ws...))
	}
	return all
}

// udpAsked has, for each address of udpRivals, how its endpoints begin.
var udpAsked = map[netip.AddrPort]string{
	addrPort("10.9.0.1:80"): "10.1.0.", addrPort("[::ffff:10.9.0.1]:80"): "10.1.0.", addrPort("[fd00:9::1]:80"): "fd00:1::",
	addrPort("10.9.1.1:80"): "10.1.1.", addrPort("[::ffff:10.9.1.1]:80"): "10.1.1.", addrPort("[fd00:10::1]:80"): "fd00:2::",
}

func askUDP() call {
	return call{Op: "askers", N: 8, All: slices.Collect(maps.Keys(udpAsked))}
}

// churnUDP changes the services until the askers have sent so many datagrams.
func churnUDP(t *testing.T, e *Engine, p *pod, want int) ([]tally, int) {
	t.Helper()
	var all []tally
	changes := 0
	for sumOf(all) < want {
		p.mustDo(t, askUDP())
		for range 50 {
			changes++
			apply(t, e, udpRivals(changes)...)
		}
		all = append(all, p.mustDo(t, call{Op: "halt"}).Tally...)
	}
	return all, changes
}

func sumOf(all []tally) int {
	n := 0
	for _, t := range all {
		n += t.N
	}
	return n
}

// misheard returns what is no reply of an endpoint of the asked service, from the asked
// address.
func misheard(all []tally) []tally {
	return slices.DeleteFunc(slices.Clone(all), func(c tally) bool {
		return c.Errno == 0 && c.Peer.Port() == 7001 && strings.HasPrefix(c.Peer.Addr().String(), udpAsked[c.Asked])
	})
}

// The control: an engine that forgets flows, and slots that lead to the other service,
// are caught by what the churn checks.
func TestForgottenFlowsAreCaught(t *testing.T) {
	e, p := mesh(t, udpRivals(0)...)
	p.mustDo(t, askUDP())
	apply(t, e, udpRivals(1)...)
	if bad := misheard(p.mustDo(t, call{Op: "halt"}).Tally); len(bad) > 0 {
		t.Fatalf("before: %v", bad)
	}
	h := e.hookOf(t, meshProgMeshRecvmsg4)
	must(t, h.link.Close())
	fd := p.udp(t, v4)
	defer p.do(t, call{Op: "close", FD: fd})
	got := p.ask(t, fd, v4, "10.9.0.1:80")
	if got.From == addrPort("10.9.0.1:80") || got.From != got.At {
		t.Fatalf("heard %+v without the program that restores addresses", got)
	}
	if all, _ := churnUDP(t, e, p, 1000); len(misheard(all)) == 0 {
		t.Error("wrong reply addresses were not noticed")
	}
}

func TestDatagramsToTheOtherServiceAreCaught(t *testing.T) {
	e, p := mesh(t, udpRivals(0)...)
	var slots []meshSlot
	var at []uint32
	for key, v := range e.state.fronts {
		if v.Slots == 0 || wordsAddr(key.Addr) != addr("10.9.0.1") {
			continue
		}
		for i := range v.Slots {
			slots = append(slots, meshSlot{First: addrWords(addr("10.1.1.1")), Second: addrWords(addr("10.1.1.1")), Generation: v.Generation})
			at = append(at, v.Set+i)
		}
	}
	must(t, e.slots.put(at, slots))
	asked := 0
	for asked < 5000 {
		p.mustDo(t, askUDP())
		apply(t, e, udpRivals(0)...) // it has nothing to write
		heard := p.mustDo(t, call{Op: "halt"}).Tally
		if len(misheard(heard)) > 0 {
			return
		}
		asked += sumOf(heard)
	}
	t.Errorf("%d datagrams, those to the other service were not noticed", asked)
}

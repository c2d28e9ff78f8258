package follow

import (
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/hops"
)

// script writes events, microseconds after a moment.
type script struct {
	from   int64
	events []hops.Event
}

func (s *script) at(us int64) int64 { return s.from + us*1000 }

func (s *script) call(role int, began, ended int64, number, value int, sent, read bool) {
	s.events = append(s.events, hops.Event{
		Kind: hops.Call, At: s.at(ended), Role: role, Thread: uint32(10 + role), NextRole: -1,
		Began: s.at(began), Number: number, Value: value, Sent: sent, Read: read,
	})
}

// switches: a processor goes from one role's thread to another's; -1 is nobody.
func (s *script) switches(at int64, from, to int) {
	e := hops.Event{Kind: hops.Switch, At: s.at(at), Role: from, NextRole: to, Sleeps: true}
	if from >= 0 {
		e.Thread = uint32(10 + from)
	}
	if to >= 0 {
		e.Next = uint32(10 + to)
	}
	s.events = append(s.events, e)
}

func (s *script) wakes(at int64, role int) {
	s.events = append(s.events, hops.Event{Kind: hops.Waking, At: s.at(at), Role: role, Thread: uint32(10 + role), NextRole: -1})
}

// request is one through a proxy, role 2, on one processor, 100 µs long:
// the client sends for 10, 5 until the proxy runs, which reads, computes for 5 and
// sends for 10; the server has it at 35, computes for 20 and answers; the proxy has
// that at 70, and the client at 100.
func request(from int64, connect bool) []hops.Event {
	s := &script{from: from}
	if connect {
		s.call(client, -20, -15, unix.SYS_CONNECT, -int(unix.EINPROGRESS), false, false)
		s.call(2, -12, -11, unix.SYS_ACCEPT4, 7, false, false)
	}
	s.switches(-1, -1, client)
	s.call(client, 0, 10, unix.SYS_WRITE, 128, true, false)
	s.wakes(8, 2)
	s.switches(12, client, -1)
	s.switches(15, -1, 2)
	s.call(2, -5, 16, unix.SYS_READ, 128, false, true)
	s.call(2, 21, 31, unix.SYS_WRITE, 128, true, false)
	s.wakes(30, server)
	s.switches(34, 2, server)
	s.call(server, -5, 35, unix.SYS_READ, 128, false, true)
	s.call(server, 55, 65, unix.SYS_WRITE, 1024, true, false)
	s.wakes(64, 2)
	s.switches(66, server, 2)
	s.call(2, 34, 70, unix.SYS_READ, 1024, false, true)
	s.call(2, 75, 85, unix.SYS_WRITE, 1024, true, false)
	s.wakes(84, client)
	s.switches(90, 2, client)
	s.call(client, 12, 100, unix.SYS_READ, 1024, false, true)
	s.switches(101, client, -1)
	return s.events
}

func requests(n int, connect bool) []hops.Event {
	var all []hops.Event
	for i := range n {
		all = append(all, request(int64(1+i)*1e6, connect)...)
	}
	slices.SortStableFunc(all, func(a, b hops.Event) int { return int(a.At - b.At) })
	return all
}

var names = []string{"client", "server", "proxy"}

func TestWhereTheTimeGoes(t *testing.T) {
	b, err := Break(requests(30, false), names, false)
	if err != nil {
		t.Fatal(err)
	}
	if b.Requests != 30 || b.P50 != 100 || b.Hops != 1 {
		t.Errorf("%d requests, p50 %g, %d hops", b.Requests, b.P50, b.Hops)
	}
	want := map[string]float64{
		"client " + result.PartKernel: 20, "client " + result.PartUser: 2, // 10 to send and 10 until it has the answer
		"proxy " + result.PartKernel: 1 + 10 + 4 + 10, "proxy " + result.PartUser: 5 + 3 + 5 + 5,
		"server " + result.PartKernel: 1 + 10, "server " + result.PartUser: 20 + 1,
		" " + result.PartQueue: 3,
	}
	sum := 0.0
	for _, p := range b.Parts {
		sum += p.Micros
		if w := want[p.Role+" "+p.What]; math.Abs(w-p.Micros) > 0.01 {
			t.Errorf("%s %s: %g µs, want %g", p.Role, p.What, p.Micros, w)
		}
		delete(want, p.Role+" "+p.What)
	}
	if math.Abs(sum-100) > 0.01 || len(want) > 0 {
		t.Errorf("the parts add up to %g µs; missing %v", sum, want)
	}
	if p := b.Parts[0]; p.Role != "client" {
		t.Errorf("the client is not first: %+v", b.Parts)
	}
}

func TestWayOfARequest(t *testing.T) {
	b, err := Break(requests(30, true), names, true)
	if err != nil {
		t.Fatal(err)
	}
	if b.P50 != 120 {
		t.Errorf("with its connection a request takes %g µs, want 120", b.P50)
	}
	var got []string
	for _, s := range b.Path {
		got = append(got, s.Role+" "+s.What)
	}
	want := []string{
		"proxy accepts", "proxy reads", "proxy writes", "server reads", "server writes the answer",
		"proxy reads the answer", "proxy writes the answer", "client has the answer",
	}
	if !slices.Equal(got, want) {
		t.Errorf("path %q", got)
	}
	first := b.Path[1]
	if first.At != 36 || first.Woken != 28 || first.Ran != 35 {
		t.Errorf("the proxy reads: %+v", first)
	}
	for _, w := range b.Work {
		if w.Role == "proxy" && (math.Abs(w.BytesRead-1152) > 1 || math.Abs(w.Writes-2) > 0.01) {
			t.Errorf("%+v", w)
		}
	}
}

// TestNothingToFollow: too little is no breakdown, and a redirect without requests none.
func TestNothingToFollow(t *testing.T) {
	for what, events := range map[string][]hops.Event{"nothing": nil, "a few": requests(fewest-1, false)} {
		if _, err := Break(events, names, false); err == nil || !strings.Contains(err.Error(), "at least 20") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// tape writes events as the programs would, one nanosecond apart.
type tape struct {
	*book
	now uint64
}

func newTape() *tape {
	b := newBook()
	b.watches[1] = watch{pod: "pod"}
	b.links[1] = linkInfo{pod: "pod", side: SidePod}
	return &tape{book: b}
}

func (t *tape) event(k Kind, h probeHook, cookie, sock uint64, old uint8) *event {
	t.now++
	e := &event{kind: k, hook: h}
	e.TimeNs, e.Cookie, e.Sock, e.OldState, e.Pod, e.Protocol = t.now, cookie, sock, old, 1, unix.IPPROTO_TCP
	e.src = netip.MustParseAddrPort("192.0.2.1:1000")
	e.dst = netip.MustParseAddrPort("192.0.2.2:80")
	return e
}

func (t *tape) state(k Kind, cookie, sock uint64, old uint8) {
	t.add(t.event(k, probeHookHOOK_STATE, cookie, sock, old))
}

func (t *tape) asked(cookie uint64) {
	t.add(t.event(Asked, probeHookHOOK_CONNECT, cookie, 0, 0))
}

func (t *tape) ledger() Ledger {
	l := Ledger{Events: map[Kind]uint64{}}
	t.snapshot(&l)
	l.Events = nil // what was said, not what is known by it
	return l
}

const tcpLastAck = 9

// What the second copy of the state program says again changes nothing.
func TestSaidTwice(t *testing.T) {
	twice := newTape()
	once := newTape()
	for _, b := range []*tape{once, twice} {
		say := func(k Kind, cookie, sock uint64, old uint8) {
			b.state(k, cookie, sock, old)
			if b == twice {
				b.now--
				b.state(k, cookie, sock, old)
			}
		}
		for range 2 { // the second socket has the first one's address
			b.asked(5)
			say(SynSent, 5, 100, tcpClose)
			say(Established, 5, 100, tcpSynSent)
			say(Established, 6, 200, tcpSynRecv)
			say(Closed, 5, 100, tcpLastAck)
			say(Closed, 6, 200, tcpFinWait1)
		}
	}
	if n := len(once.ledger().Lines); n != 4 {
		t.Fatalf("%d lines, want 4", n)
	}
	same(t, twice.ledger(), once.ledger())
}

// Accepted sockets have no cookie under the raw tracepoint until somebody asks
// for it: the line is the same, and gets it.
func TestCookieComesLater(t *testing.T) {
	b := newTape()
	b.state(Established, 0, 100, tcpSynRecv)
	b.state(Closed, 7, 100, tcpLastAck)
	b.state(Established, 0, 100, tcpSynRecv)
	l := b.ledger()
	if len(l.Lines) != 2 || l.Lines[0].Cookie != 7 || l.Lines[0].State != StateClosed ||
		l.Lines[1].Cookie != 0 || !l.Lines[1].Open() {
		t.Errorf("lines %+v", l.Lines)
	}
}

func TestEndingOf(t *testing.T) {
	const closing, finWait2 = 11, 5
	for _, c := range []struct {
		old  uint8
		err  unix.Errno
		want State
	}{
		{tcpSynSent, unix.ECONNREFUSED, StateFailed},
		{tcpSynSent, 0, StateFailed},
		{tcpSynRecv, unix.ECONNRESET, StateFailed},
		{tcpEstablished, unix.ECONNRESET, StateReset},
		{tcpEstablished, 0, StateReset},
		{tcpCloseWait, unix.EPIPE, StateReset},
		{tcpFinWait1, unix.ETIMEDOUT, StateReset},
		{tcpLastAck, unix.ECONNRESET, StateReset},
		{tcpLastAck, 0, StateClosed},
		{closing, 0, StateClosed},
		{finWait2, 0, StateClosed},
	} {
		e := &event{}
		e.OldState, e.Err = c.old, uint16(c.err)
		if got := ending(e); got != c.want {
			t.Errorf("from state %d with %v: %s, want %s", c.old, c.err, got, c.want)
		}
	}
}

// A SYN that goes again is one SYN; one with another sequence number is another.
func TestSYNs(t *testing.T) {
	b := newTape()
	syn := func(isn uint32, dst string) {
		e := b.event(WireSyn, probeHookHOOK_EGRESS, 0, 0, 0)
		e.Link, e.Isn, e.dst = 1, isn, netip.MustParseAddrPort(dst)
		b.add(e)
	}
	b.asked(5)
	b.state(SynSent, 5, 100, tcpClose)
	syn(1, "192.0.2.9:81") // changed on its way
	syn(1, "192.0.2.9:81")
	b.state(Established, 5, 100, tcpSynSent)
	syn(1, "192.0.2.9:81") // once more, after it was answered
	syn(2, "192.0.2.9:99") // nobody's
	l := b.ledger()
	if len(l.Lines) != 1 || len(l.Lines[0].Wire) != 1 || l.Lines[0].Wire[0].Count != 3 {
		t.Errorf("lines %+v", l.Lines)
	}
	if len(l.Stray) != 1 || l.Stray[0].Pod != "pod" || l.Stray[0].ISN != 2 {
		t.Errorf("stray %+v", l.Stray)
	}
	b.expire(int64(b.now))
	if n := len(b.ledger().Stray); n != 1 {
		t.Errorf("%d stray SYNs, want the one that is still young", n)
	}
	b.expire(int64(b.now) + int64(waitFor) + 1)
	if n := len(b.ledger().Stray); n != 0 {
		t.Errorf("%d stray SYNs after %s", n, waitFor)
	}
}

// Forgetting leaves what may still change.
func TestForget(t *testing.T) {
	b := newTape()
	b.asked(5)
	b.state(SynSent, 5, 100, tcpClose)
	b.state(Established, 5, 100, tcpSynSent)
	b.asked(6)
	b.forget()
	if n := len(b.entries); n != 2 {
		t.Fatalf("%d lines, want both", n)
	}
	b.state(Closed, 5, 100, tcpLastAck)
	b.add(b.event(Released, probeHookHOOK_RELEASE, 6, 0, tcpClose))
	b.forget()
	if len(b.entries)+len(b.byCookie)+len(b.byAddr)+len(b.flows) != 0 {
		t.Errorf("left: %d lines, %v, %v, %v", len(b.entries), b.byCookie, b.byAddr, b.flows)
	}
}

// A change that no program reported is inferred from what comes after, and said.
func TestInferred(t *testing.T) {
	release := func(b *tape, cookie uint64, state uint8) {
		b.add(b.event(Released, probeHookHOOK_RELEASE, cookie, 0, state))
	}
	for name, c := range map[string]struct {
		play func(b *tape)
		want State
		over bool
	}{
		"end not seen": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			b.state(Established, 5, 100, tcpSynSent)
			b.now += uint64(waitFor)
			release(b, 5, tcpEstablished)
		}, StateClosing, false},
		"handshake not seen, released": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			release(b, 5, tcpEstablished)
		}, StateClosing, false},
		"handshake not seen, closed": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			b.state(Closed, 5, 100, tcpLastAck)
		}, StateClosed, true},
		"failure not seen": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			release(b, 5, tcpClose)
		}, StateFailed, true},
		"reset not seen": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			b.state(Established, 5, 100, tcpSynSent)
			release(b, 5, tcpClose)
		}, StateReset, true},
		"failure not seen, asked again": {func(b *tape) {
			b.state(SynSent, 5, 100, tcpClose)
			b.asked(5)
		}, StateFailed, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTape()
			b.asked(5)
			c.play(b)
			got := b.ledger().Lines[0]
			if got.State != c.want || got.Over != c.over || got.Inferred == (c.want == StateClosing && got.EstablishedAt != 0) {
				t.Errorf("line %+v, want %s, over %v, and inferred", got, c.want, c.over)
			}
		})
	}
}

// An accepted connection whose handshake nobody reported is of this watch when its
// SYN was seen, and older when not.
func TestAcceptedUnseen(t *testing.T) {
	for _, seen := range []bool{true, false} {
		b := newTape()
		if seen {
			syn := b.event(WireSyn, probeHookHOOK_INGRESS, 0, 0, 0)
			syn.Link, syn.src, syn.dst = 1, syn.dst, syn.src
			b.add(syn)
		}
		b.state(Closed, 7, 100, tcpLastAck)
		l := b.ledger()
		if seen {
			if len(l.Lines) != 1 || !l.Lines[0].Inferred || l.Lines[0].Role != RolePassive || len(l.Lines[0].Wire) != 1 {
				t.Errorf("lines %+v, before %+v", l.Lines, l.Before)
			}
		} else if len(l.Lines) != 0 || len(l.Before) != 1 {
			t.Errorf("lines %+v, before %+v", l.Lines, l.Before)
		}
	}
}

// What is given up goes away, and takes its socket along.
func TestExpire(t *testing.T) {
	b := newTape()
	b.asked(5)
	b.state(SynSent, 5, 100, tcpClose)
	b.state(Established, 5, 100, tcpSynSent)
	b.add(b.event(Released, probeHookHOOK_RELEASE, 5, 0, tcpEstablished))
	b.expire(int64(b.now))
	if b.ledger().Lines[0].Over {
		t.Error("given up at once")
	}
	b.expire(int64(b.now) + int64(waitFor) + 1)
	b.forget()
	if len(b.entries)+len(b.byCookie)+len(b.byAddr)+len(b.flows) != 0 {
		t.Errorf("left: %d lines, %v, %v, %v", len(b.entries), b.byCookie, b.byAddr, b.flows)
	}
}

func TestDecode(t *testing.T) {
	var e event
	if err := decode(make([]byte, eventSize-1), &e); err == nil {
		t.Error("a short event was read")
	}
	raw := make([]byte, eventSize)
	raw[eventSize-4] = byte(kinds)
	if err := decode(raw, &e); err == nil {
		t.Error("an unknown kind was read")
	}
}

package trace

import (
	"net/netip"
	"slices"
)

// Call is one call of a function of the kernel on a connection's way.
type Call struct {
	// At is CLOCK_MONOTONIC, in nanoseconds.
	At       int64  `json:"at_ns"`
	Function string `json:"function"`
}

// call is a decoded sighting of a call.
type call struct {
	Call
	pod          string
	sock, cookie uint64
	flags        uint8
	// ends are the socket's own address and its peer; a port is 0 where it is
	// not chosen yet, or the event is of a socket without them.
	ends ends
}

// ends are the addresses of one end's socket of a connection.
type ends struct {
	pod         string
	local, peer netip.AddrPort
}

func (e ends) whole() bool { return e.local.Port() != 0 && e.peer.Port() != 0 }

// attempt is the calls of one end of one connection.
type attempt struct {
	calls    []Call
	ends     ends
	cookie   uint64
	accepted bool
}

// attempts joins calls to connections: those of a socket by its address in the
// kernel, those of packets by theirs.
type attempts struct {
	bySock map[uint64]*attempt
	byEnds map[ends]*attempt
	all    []*attempt
}

func newAttempts() *attempts {
	return &attempts{bySock: map[uint64]*attempt{}, byEnds: map[ends]*attempt{}}
}

const (
	beginning = "__inet_stream_connect"
	accept    = "inet_csk_accept"
	flagSYN   = 0x02
	flagACK   = 0x10
)

func (a *attempts) add(c call) {
	n := a.find(c)
	n.calls = append(n.calls, c.Call)
	if c.cookie != 0 {
		n.cookie = c.cookie
	}
	n.accepted = n.accepted || c.Function == accept
	if c.sock != 0 {
		a.bySock[c.sock] = n
	}
	if c.ends.whole() {
		n.ends = c.ends
		a.byEnds[c.ends] = n
	}
}

func (a *attempts) find(c call) *attempt {
	known := a.bySock[c.sock]
	if c.sock == 0 || c.Function == accept {
		known = a.byEnds[c.ends]
		// The same addresses again, and a first packet: another connection.
		if known != nil && known.accepted && c.flags&(flagSYN|flagACK) == flagSYN {
			known = nil
		}
	} else if c.Function == beginning {
		known = nil
	}
	if known == nil {
		known = &attempt{ends: c.ends}
		a.all = append(a.all, known)
	}
	return known
}

// take returns the calls of one end of a connection, in their order, and forgets
// them. None: nobody saw any.
func (a *attempts) take(cookie uint64, e ends) []Call {
	for i, n := range slices.Backward(a.all) {
		if n.ends.pod != e.pod && n.ends.pod != "" {
			continue
		}
		if (cookie == 0 || n.cookie != cookie) && (!e.whole() || n.ends != e) {
			continue
		}
		a.forget(n)
		a.all = slices.Delete(a.all, i, i+1)
		slices.SortStableFunc(n.calls, func(x, y Call) int { return int(x.At - y.At) })
		return n.calls
	}
	return nil
}

// expire forgets what began before a moment and nobody asked for.
func (a *attempts) expire(before int64) {
	a.all = slices.DeleteFunc(a.all, func(n *attempt) bool {
		old := n.calls[0].At < before
		if old {
			a.forget(n)
		}
		return old
	})
}

func (a *attempts) forget(n *attempt) {
	if a.byEnds[n.ends] == n {
		delete(a.byEnds, n.ends)
	}
	for sock, other := range a.bySock {
		if other == n {
			delete(a.bySock, sock)
		}
	}
}

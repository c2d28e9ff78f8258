package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Role says which end of a connection a socket is.
type Role string

// The roles. It is unknown for a socket that was connected before the watch.
const (
	RoleActive  Role = "active"
	RolePassive Role = "passive"
	RoleUnknown Role = "unknown"
)

// State is how far a connection came.
type State string

// The states.
const (
	// StateAsked: an application asked, and the kernel did not begin to connect:
	// refused by a program, no route, or not yet. UDP never leaves it.
	StateAsked State = "asked"
	// StateSynSent: connecting.
	StateSynSent State = "syn-sent"
	// StateEstablished: open.
	StateEstablished State = "established"
	// StateClosing: open, and the application let go of its socket. It is the
	// last state where how the kernel ended the connection was not seen.
	StateClosing State = "closing"
	// StateClosed: both sides closed in order.
	StateClosed State = "closed"
	// StateReset: cut off after it was established. Line.Errno is what the
	// socket got (ECONNRESET: by the peer; ETIMEDOUT); 0 means that this side
	// cut it off.
	StateReset State = "reset"
	// StateFailed: it was never established. Line.Errno is what the socket
	// got; 0 means that it was given up on this side.
	StateFailed State = "failed"
)

// Line is one connection as one end's socket saw it. A socket that connects
// again has another line.
type Line struct {
	Pod string
	// Cookie is SO_COOKIE; 0 is unknown.
	Cookie uint64
	// Protocol is the socket's: IPPROTO_TCP, UDP or MPTCP.
	Protocol uint16
	Role     Role
	State    State
	// Asked is what the application passed, a v4-mapped address as such. It is
	// not valid where unknown: on a passive socket, and where no provider saw it.
	Asked netip.AddrPort
	// Sends counts UDP sends to Asked on an unconnected socket.
	Sends int
	// Local and Peer are the socket's own addresses, v4-mapped ones written as
	// IPv4; not valid where unknown. Peer is where the kernel really connects.
	Local, Peer netip.AddrPort
	// Wire lists the connection's SYNs as they passed the pod's links, in the
	// order in which they did.
	Wire []SYN
	// Errno is the socket's error when it closed.
	Errno unix.Errno
	// Inferred: a change of state was not reported and follows from what came
	// after. Its time is 0, and so is Errno where that was the end. A kernel may
	// keep tracing programs from running, and not count it, where it handles a
	// packet in the time of a task that it protects; what an application does
	// itself is seen all the same.
	Inferred bool
	// Over: nothing more will be seen of it.
	Over bool
	// When it happened; 0 is not seen.
	AskedAt, SynSentAt, EstablishedAt, ReleasedAt, ClosedAt int64
}

// SYN is one SYN at one end of a pod's link. Retransmissions are the same SYN.
type SYN struct {
	Side      Side           `json:"side"`
	Direction Direction      `json:"direction"`
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	// ISN is the initial sequence number, which tells apart connections that
	// have the same addresses.
	ISN uint32 `json:"isn"`
	// At is when it passed first.
	At int64 `json:"at"`
	// Count is how often it passed.
	Count int `json:"count"`
}

// Open reports whether the connection is in use or on its way.
func (l Line) Open() bool { return l.State == StateSynSent || l.State == StateEstablished }

// WireDst lists the distinct destinations of the connection's SYNs at one end of
// the link.
func (l Line) WireDst(s Side) []netip.AddrPort {
	var dst []netip.AddrPort
	for _, syn := range l.Wire {
		if syn.Side == s && !slices.Contains(dst, syn.Dst) {
			dst = append(dst, syn.Dst)
		}
	}
	return dst
}

// Ledger is what the judge knows at one moment, everything that happened before
// the call included.
type Ledger struct {
	// Lines are the connections born under the watch, in that order.
	Lines []Line
	// Before are those that are older, or whose birth was not seen whole
	// because it was under way. They are not to be judged.
	Before []Line
	// Stray are SYNs that belong to none of the lines: refused by the pod, or of
	// a socket that no provider saw.
	Stray []StraySYN
	// Wire are the packet counters since the links were first watched.
	Wire []WireCount
	// Unparsed counts packets of which only the address was read; they stand in
	// Wire under port 0.
	Unparsed uint64
	// Lost counts what was missed. Unless it is whole, nothing in this ledger may
	// pass.
	Lost      Lost
	Providers map[Kind]Provider
	// Events counts what the providers have reported, by kind.
	Events map[Kind]uint64
}

// StraySYN is a SYN without a connection.
type StraySYN struct {
	Pod string
	SYN
}

// Leaks returns the counters of packets that passed the links of a pod with a
// destination that should have been rewritten. With port 0 every port counts;
// otherwise also those packets to the address whose port is not known. None means
// that no packet to it was on the wire of this pod: the counters are exact.
func (l Ledger) Leaks(pod string, vip netip.AddrPort) []WireCount {
	var leaks []WireCount
	for _, w := range l.Wire {
		port := w.Dst.Port()
		if w.Pod == pod && w.Dst.Addr() == vip.Addr().Unmap() &&
			(vip.Port() == 0 || port == 0 || port == vip.Port()) {
			leaks = append(leaks, w)
		}
	}
	return leaks
}

// Blind lists what a verdict needs and nothing on this kernel sees: what was
// asked, what was established, what was on the wire. With any of it missing,
// nothing in this ledger may pass.
func (l Ledger) Blind() []Kind {
	var blind []Kind
	for _, k := range []Kind{Asked, Established, WireSyn} {
		if l.Providers[k].Name == "" {
			blind = append(blind, k)
		}
	}
	return blind
}

// Lost says what the judge missed, by cause.
type Lost struct {
	// Ring counts events that found no room in the ring, by kind.
	Ring map[Kind]uint64 `json:"ring,omitempty"`
	// Missed counts program runs that the kernel left out as recursion.
	Missed uint64 `json:"missed"`
	// Wire counts packets that found no room in the table of counters.
	Wire uint64 `json:"wire"`
	// Uncounted names providers of which this kernel may leave out runs and does
	// not count them: that nothing was missed cannot be said there. Total does
	// not have it.
	Uncounted []string `json:"uncounted,omitempty"`
	// Detached lists the hooks, as "pod: hook", that others took from the judge.
	// What happens there since is not seen.
	Detached []string `json:"detached,omitempty"`
	// Altered lists what others wrote or deleted in the judge's maps, as "pod: what".
	// What was counted there is not to be believed.
	Altered []string `json:"altered,omitempty"`
}

// Total is above zero when anything was missed.
func (l Lost) Total() uint64 {
	total := l.Missed + l.Wire + uint64(len(l.Detached)+len(l.Altered))
	for _, n := range l.Ring {
		total += n
	}
	return total
}

// Whole: nothing was missed, and that is known.
func (l Lost) Whole() bool { return l.Total() == 0 && len(l.Uncounted) == 0 }

// String says it in one line.
func (l Lost) String() string {
	s := l.counted()
	if len(l.Uncounted) > 0 {
		s += "; what this kernel kept from " + strings.Join(l.Uncounted, ", ") + " it does not count"
	}
	return s
}

func (l Lost) counted() string {
	if l.Total() == 0 {
		return "lost nothing"
	}
	var parts []string
	for k := range kinds {
		if n := l.Ring[Kind(k)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s events (ring full)", n, Kind(k)))
		}
	}
	if l.Missed > 0 {
		parts = append(parts, fmt.Sprintf("%d program runs", l.Missed))
	}
	if l.Wire > 0 {
		parts = append(parts, fmt.Sprintf("%d packets (wire table full)", l.Wire))
	}
	if len(l.Detached) > 0 {
		parts = append(parts, "sight of what others detached it from: "+strings.Join(l.Detached, "; "))
	}
	if len(l.Altered) > 0 {
		parts = append(parts, "what others changed in its maps: "+strings.Join(l.Altered, "; "))
	}
	return "lost " + strings.Join(parts, ", ")
}

package probe

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// TCP states, as include/net/tcp_states.h numbers them.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpFinWait1    = 4
	tcpClose       = 7
	tcpCloseWait   = 8
)

// waitFor is how long a SYN may wait for its connection, and a connection for its
// end, before [book.expire] gives up: longer than the kernel retransmits.
const waitFor = 5 * time.Minute

// watch is one pod under its number. A pod that is removed and added again has
// another.
type watch struct {
	pod string
	// since is when everything was attached: what began earlier is "before".
	since int64
}

// linkInfo is one watched interface under its number.
type linkInfo struct {
	pod  string
	side Side
}

// entry is a line under way.
type entry struct {
	Line
	pod    uint32
	before bool
	done   bool // nothing more can happen to it
	flow   flow // as registered; zero when not
	socket *socket
}

// socket is what is known of one kernel socket between two events.
type socket struct {
	cookie, addr uint64
	now          *entry // the latest attempt
}

// flow is a SYN's addresses as one pod sees them.
type flow struct {
	pod       uint32
	direction Direction
	src, dst  netip.AddrPort
}

// origin is a flow without the destination, which DNAT may change.
type origin struct {
	pod       uint32
	direction Direction
	src       netip.AddrPort
}

// book joins events to lines, in the order of the ring. It is not safe for
// concurrent use.
type book struct {
	watches  map[uint32]watch
	links    map[uint32]linkInfo
	byCookie map[uint64]*socket
	byAddr   map[uint64]*socket
	flows    map[flow]*entry
	loose    map[origin][]SYN
	entries  []*entry
	// events counts all that came, by kind; syns those of SYNs, as the map of
	// counters does.
	events [kinds]uint64
	syns   map[probeWireKey]uint64
	// ended are addresses of sockets whose last event was their end.
	ended map[uint64]bool
}

func newBook() *book {
	return &book{
		watches: map[uint32]watch{}, links: map[uint32]linkInfo{},
		byCookie: map[uint64]*socket{}, byAddr: map[uint64]*socket{},
		flows: map[flow]*entry{}, loose: map[origin][]SYN{},
		ended: map[uint64]bool{}, syns: map[probeWireKey]uint64{},
	}
}

func (b *book) add(e *event) {
	b.events[e.kind]++
	if b.again(e) {
		return
	}
	switch e.kind {
	case Asked:
		b.asked(e)
	case SynSent:
		b.synSent(e)
	case Established:
		b.established(e)
	case Closed:
		b.closed(e)
	case Released:
		b.released(e)
	case WireSyn:
		b.wireSYN(e)
	}
}

// again reports whether a change of state was reported before: the second copy of
// the program may say once more what the first one said (bpf/probe/state.h).
// Nothing else of that socket is between the two.
func (b *book) again(e *event) bool {
	if e.hook != probeHookHOOK_STATE {
		return false
	}
	if b.ended[e.Sock] {
		if e.kind == Closed {
			return true
		}
		delete(b.ended, e.Sock)
	}
	if e.kind == Closed {
		b.ended[e.Sock] = true
		return false
	}
	s := b.byAddr[e.Sock]
	if s == nil || s.now == nil || (s.cookie != 0 && e.Cookie != 0 && s.cookie != e.Cookie) {
		return false
	}
	return (e.kind == SynSent && s.now.State == StateSynSent) ||
		(e.kind == Established && s.now.State == StateEstablished)
}

// socket finds the socket of an event by its cookie, and by its address where it
// has none yet.
func (b *book) socket(e *event) *socket {
	s := b.byCookie[e.Cookie]
	if s == nil || e.Cookie == 0 {
		s = b.byAddr[e.Sock]
		if s == nil || e.Sock == 0 || (s.cookie != 0 && e.Cookie != 0) {
			s = new(socket)
		}
	}
	if e.Cookie != 0 {
		s.cookie = e.Cookie
		b.byCookie[s.cookie] = s
		if s.now != nil {
			s.now.Cookie = s.cookie
		}
	}
	if e.Sock != 0 {
		s.addr = e.Sock
		b.byAddr[s.addr] = s
	}
	return s
}

func (b *book) forgetSocket(s *socket) {
	delete(b.byCookie, s.cookie)
	if b.byAddr[s.addr] == s {
		delete(b.byAddr, s.addr)
	}
}

// begin gives s a new line. whole: the event is the first of a connection's life.
func (b *book) begin(s *socket, e *event, role Role, whole bool) *entry {
	if s.now != nil {
		s.now.done = true
	}
	w := b.watches[e.Pod]
	s.now = &entry{
		Line: Line{
			Pod: w.pod, Cookie: s.cookie, Protocol: e.Protocol, Role: role,
		},
		pod:    e.Pod,
		socket: s,
		before: !whole || int64(e.TimeNs) < w.since,
	}
	b.entries = append(b.entries, s.now)
	return s.now
}

func (b *book) asked(e *event) {
	s := b.socket(e)
	if n := s.now; n != nil {
		if n.Open() && e.Protocol != unix.IPPROTO_UDP {
			if e.hook == probeHookHOOK_SYSCALL {
				return // connect() on a socket that is on its way or open
			}
			n.endUnseen() // the cgroup's hook runs on idle sockets alone
		}
		if e.hook == probeHookHOOK_SENDMSG && n.Sends > 0 && n.Asked == e.dst {
			n.Sends++
			return
		}
	}
	n := b.begin(s, e, RoleActive, true)
	n.State, n.Asked, n.AskedAt = StateAsked, e.dst, int64(e.TimeNs)
	if e.hook == probeHookHOOK_SENDMSG {
		n.Sends = 1
	}
}

func (b *book) synSent(e *event) {
	s := b.socket(e)
	n := s.now
	if n == nil || n.State != StateAsked {
		n = b.begin(s, e, RoleActive, true) // nobody saw it ask
	}
	// The port is not chosen yet; a socket that connects again shows its old one.
	n.State, n.SynSentAt, n.Peer = StateSynSent, int64(e.TimeNs), unmap(e.dst)
}

func (b *book) established(e *event) {
	s := b.socket(e)
	n := s.now
	switch {
	case n != nil && n.State == StateSynSent:
	case e.OldState == tcpSynRecv:
		n = b.begin(s, e, RolePassive, true)
	default:
		n = b.begin(s, e, RoleActive, false)
	}
	n.State, n.EstablishedAt, n.Peer = StateEstablished, int64(e.TimeNs), unmap(e.dst)
	n.setLocal(e.src)
	b.claim(n)
}

func (b *book) closed(e *event) {
	s := b.socket(e)
	defer b.forgetSocket(s)
	n := s.now
	if n == nil {
		if n = b.late(s, e); n == nil {
			return
		}
	}
	n.infer(n.State == StateSynSent && e.OldState != tcpSynSent)
	n.State, n.ClosedAt, n.Errno, n.done = ending(e), int64(e.TimeNs), unix.Errno(e.Err), true
	n.setLocal(e.src)
	if !n.Peer.IsValid() {
		n.Peer = unmap(e.dst)
	}
	b.claim(n)
	delete(b.flows, n.flow)
}

// late begins the line of a connection of which the end is seen first: it is
// older than the watch, unless its SYN came in under the watch.
func (b *book) late(s *socket, e *event) *entry {
	switch e.OldState {
	case tcpSynRecv:
		return nil // a child that never became a connection
	case tcpSynSent:
		return b.begin(s, e, RoleActive, false)
	}
	peer, local := unmap(e.dst), unmap(e.src)
	for _, syn := range b.loose[origin{e.Pod, In, peer}] {
		if syn.Dst == local && syn.At >= b.watches[e.Pod].since {
			n := b.begin(s, e, RolePassive, true)
			n.infer(true)
			return n
		}
	}
	return b.begin(s, e, RoleUnknown, false)
}

// ending says how a connection ended, from the state it was in and the error
// that its socket had. A socket that both sides closed in order passes through
// LAST_ACK, CLOSING or FIN_WAIT2.
func ending(e *event) State {
	switch e.OldState {
	case tcpSynSent, tcpSynRecv:
		return StateFailed
	case tcpEstablished, tcpCloseWait, tcpFinWait1:
		return StateReset
	}
	if e.Err != 0 {
		return StateReset
	}
	return StateClosed
}

// released takes note that the application let go. The socket is over where it
// has no connection; otherwise its end is still to come.
func (b *book) released(e *event) {
	s := b.byCookie[e.Cookie]
	if s == nil || s.now == nil {
		return
	}
	n := s.now
	n.ReleasedAt = int64(e.TimeNs)
	switch {
	case e.Protocol == unix.IPPROTO_UDP || e.OldState == tcpClose:
		n.endUnseen()
		n.done = true
		delete(b.flows, n.flow)
		b.forgetSocket(s)
	case e.OldState != tcpSynSent && n.Open():
		n.infer(n.State == StateSynSent)
		n.State = StateClosing
	}
}

// endUnseen ends a connection that must be over, though nobody saw it.
func (n *entry) endUnseen() {
	switch n.State {
	case StateSynSent:
		n.State = StateFailed
	case StateEstablished:
		n.State = StateReset
	default:
		return
	}
	n.infer(true)
}

func (n *entry) infer(unseen bool) { n.Inferred = n.Inferred || unseen }

// setLocal keeps the address once its port is chosen.
func (n *entry) setLocal(a netip.AddrPort) {
	if !n.Local.IsValid() && a.Port() != 0 {
		n.Local = unmap(a)
	}
}

// snapshot sorts copies of all lines into l.
func (b *book) snapshot(l *Ledger) {
	for k, n := range b.events {
		l.Events[Kind(k)] = n
	}
	for _, n := range b.entries {
		line := n.Line
		line.Wire = append([]SYN(nil), n.Wire...)
		line.Over = n.done
		if n.before {
			l.Before = append(l.Before, line)
		} else {
			l.Lines = append(l.Lines, line)
		}
	}
	for o, syns := range b.loose {
		for _, syn := range syns {
			l.Stray = append(l.Stray, StraySYN{Pod: b.watches[o.pod].pod, SYN: syn})
		}
	}
}

// begun says since when a pod is watched whole. What was seen of it earlier, while
// the watch was being set up, is before.
func (b *book) begun(pod uint32, since int64) {
	w := b.watches[pod]
	w.since = since
	b.watches[pod] = w
	clear(b.ended) // a pod that comes back had sockets that nobody saw begin
}

// left says that nothing more will be seen of a pod.
func (b *book) left(pod uint32) {
	for _, n := range b.entries {
		if n.pod == pod {
			n.done = true
		}
	}
}

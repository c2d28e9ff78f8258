package probe

import "slices"

// wireSYN joins a SYN to its connection: by the cookie that a packet still has
// where it leaves the pod, else by its addresses. One that comes before its
// connection is known waits in loose.
func (b *book) wireSYN(e *event) {
	b.syns[probeWireKey{
		Link: e.Link, Dst: e.Dst, Dport: e.Dport, Protocol: uint8(e.Protocol), Hook: uint8(e.hook),
	}]++
	link := b.links[e.Link]
	syn := SYN{
		Side: link.side, Direction: link.side.direction(e.hook),
		Src: unmap(e.src), Dst: unmap(e.dst), ISN: e.Isn, At: int64(e.TimeNs), Count: 1,
	}
	f := flow{e.Pod, syn.Direction, syn.Src, syn.Dst}
	s := b.byCookie[e.Cookie]
	if s != nil && s.now != nil && s.now.pod == e.Pod && syn.Direction == Out {
		s.now.setLocal(e.src)
		b.register(s.now, f)
		s.now.Wire = addSYN(s.now.Wire, syn)
		return
	}
	if n := b.flows[f]; n != nil {
		n.Wire = addSYN(n.Wire, syn)
		return
	}
	o := origin{f.pod, f.direction, f.src}
	b.loose[o] = addSYN(b.loose[o], syn)
}

// register makes SYNs with these addresses the connection's.
func (b *book) register(n *entry, f flow) {
	if n.flow == f {
		return
	}
	delete(b.flows, n.flow)
	n.flow = f
	b.flows[f] = n
}

// claim takes the SYNs that came before the connection's addresses were known:
// those with its own addresses, or, since DNAT may have changed the destination,
// the only ones with its source.
func (b *book) claim(n *entry) {
	if !n.Local.IsValid() || n.flow != (flow{}) {
		return
	}
	f := flow{n.pod, Out, n.Local, n.Peer}
	if n.Role == RolePassive {
		f = flow{n.pod, In, n.Peer, n.Local}
	}
	o := origin{f.pod, f.direction, f.src}
	waiting := b.loose[o]
	if actual, ok := destination(waiting, f); ok {
		f = actual
	}
	var rest []SYN
	for _, syn := range waiting {
		if syn.Dst == f.dst {
			n.Wire = addSYN(n.Wire, syn)
		} else {
			rest = append(rest, syn)
		}
	}
	if len(rest) == 0 {
		delete(b.loose, o)
	} else {
		b.loose[o] = rest
	}
	b.register(n, f)
}

// destination finds which of the SYNs from one source are those of f.
func destination(syns []SYN, f flow) (flow, bool) {
	for _, syn := range syns {
		if syn.Dst == f.dst {
			return f, true
		}
	}
	for _, syn := range syns {
		if syn.Dst != syns[0].Dst {
			return f, false
		}
	}
	if len(syns) == 0 {
		return f, false
	}
	f.dst = syns[0].Dst
	return f, true
}

// addSYN appends a SYN, or counts it as a retransmission of one that is there.
func addSYN(syns []SYN, syn SYN) []SYN {
	for i := range syns {
		s := &syns[i]
		if s.Side == syn.Side && s.Direction == syn.Direction &&
			s.Src == syn.Src && s.Dst == syn.Dst && s.ISN == syn.ISN {
			s.Count++
			return syns
		}
	}
	return append(syns, syn)
}

// expire gives up what did not come in time: the end of connections that nobody
// uses any more, and the connections of SYNs.
func (b *book) expire(now int64) {
	for _, n := range b.entries {
		if n.State == StateClosing && !n.done && now-n.ReleasedAt > int64(waitFor) {
			n.done = true
			delete(b.flows, n.flow)
			b.forgetSocket(n.socket)
		}
	}
	for o, syns := range b.loose {
		if now-syns[len(syns)-1].At > int64(waitFor) {
			delete(b.loose, o)
		}
	}
}

// forget drops the lines to which nothing more can happen.
func (b *book) forget() {
	b.entries = slices.DeleteFunc(b.entries, func(n *entry) bool { return n.done })
}

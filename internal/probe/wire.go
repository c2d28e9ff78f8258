package probe

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

// tcxWire sees packets at both hooks of each link. It is the first program
// there, so that no other can hide a packet from it.
type tcxWire struct {
	progs struct {
		Ingress *ebpf.Program `ebpf:"wire_ingress"`
		Egress  *ebpf.Program `ebpf:"wire_egress"`
	}
}

// loopback is the number of lo in every namespace.
const loopback = 1

func (*tcxWire) Name() string { return "tcx" }

func (w *tcxWire) Open(o *objects, t Target) error {
	if err := o.load(&w.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	if err := w.try(t); err != nil {
		return errors.Join(err, w.Close())
	}
	return nil
}

// try attaches for a moment to the first link of t, or to the loopback interface
// of this process.
func (w *tcxWire) try(t Target) error {
	if len(t.Links) > 0 {
		links, err := w.attach(t.Links[0])
		return errors.Join(err, links.Close())
	}
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	links, err := w.attach(Link{Netns: own, Ifindex: loopback})
	return errors.Join(err, links.Close())
}

func (w *tcxWire) attach(l Link) (closers, error) {
	var links closers
	err := kernel.InNetns(l.Netns, func() error {
		for _, h := range []cgroupHook{
			{w.progs.Ingress, ebpf.AttachTCXIngress},
			{w.progs.Egress, ebpf.AttachTCXEgress},
		} {
			tcx, err := link.AttachTCX(link.TCXOptions{
				Interface: l.Ifindex, Program: h.prog, Attach: h.attach, Anchor: link.Head(),
			})
			if err != nil {
				return fmt.Errorf("attach %s to interface %d: %w", h.attach, l.Ifindex, err)
			}
			hook := fmt.Sprintf("%s of interface %d", h.attach, l.Ifindex)
			links = append(links, held{Link: tcx, hook: hook, prog: h.prog})
		}
		return nil
	})
	return links, err
}

func (w *tcxWire) Watch(t Target) (io.Closer, error) {
	var all closers
	for _, l := range t.Links {
		links, err := w.attach(l)
		all = append(all, links...)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
	}
	return &all, nil
}

func (w *tcxWire) programs() []*ebpf.Program {
	return []*ebpf.Program{w.progs.Ingress, w.progs.Egress}
}

func (w *tcxWire) Missed() (uint64, error) { return recursionMisses(w.programs()...) }

func (w *tcxWire) Close() error { return closePrograms(w.programs()) }

// WireCount is what passed one end of a pod's link to one destination, counted in
// the kernel, not sampled.
type WireCount struct {
	Pod       string    `json:"pod"`
	Side      Side      `json:"side"`
	Direction Direction `json:"direction"`
	// Protocol is the IP protocol number; behind IPv6 extension headers, that of
	// the first of them.
	Protocol uint8 `json:"protocol"`
	// Dst has port 0 for what has no port, for all TCP packets to ports that no
	// SYN opened on this link, and for UDP packets to ports from 32768 on that
	// Options.Named does not have: replies, mostly. So the packets to an address
	// are exactly those of all its ports together.
	Dst netip.AddrPort `json:"dst"`
	// Packets counts segments: a GSO packet counts as what it will become.
	Packets uint64 `json:"packets"`
	// SYNs counts SYN without ACK, retransmissions too.
	SYNs uint64 `json:"syns"`
}

// wireBatch is how many counters are read by one call: more than any bucket of the
// hash map has.
const wireBatch = 4096

// wireEntry is one counter as the kernel has it.
type wireEntry struct {
	key   probeWireKey
	value probeWireValue
}

// readWire reads all counters. One that was made before the call is among them.
func readWire(wire *ebpf.Map) ([]wireEntry, error) {
	var (
		cursor  ebpf.MapBatchCursor
		entries []wireEntry
		keys    = make([]probeWireKey, wireBatch)
		values  = make([]probeWireValue, wireBatch)
	)
	for {
		n, err := wire.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read wire counters: %w", err)
		}
		for i, key := range keys[:n] {
			entries = append(entries, wireEntry{key, values[i]})
		}
		if err != nil { // the end
			return entries, nil
		}
	}
}

// wireCounts are the counters of all links that were ever watched, sorted.
func wireCounts(entries []wireEntry, links map[uint32]linkInfo) []WireCount {
	var counts []WireCount
	for _, e := range entries {
		if l, ok := links[e.key.Link]; ok { // else it came since
			counts = append(counts, l.count(e.key, e.value))
		}
	}
	slices.SortFunc(counts, func(a, b WireCount) int {
		return cmp.Or(
			cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Side, b.Side), cmp.Compare(a.Direction, b.Direction),
			cmp.Compare(a.Protocol, b.Protocol), a.Dst.Compare(b.Dst),
		)
	})
	return counts
}

func (l linkInfo) count(key probeWireKey, value probeWireValue) WireCount {
	return WireCount{
		Pod: l.pod, Side: l.side, Direction: l.side.direction(probeHook(key.Hook)),
		Protocol: key.Protocol, Dst: unmap(addrPort(key.Dst, key.Dport)),
		Packets: value.Packets, SYNs: value.Syns,
	}
}

package probe

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

// lost reads all that the programs count as missed, and the packets that they
// could not read whole.
func (p *Probe) lost() (Lost, uint64, error) {
	l := Lost{Ring: map[Kind]uint64{}}
	for k := range kinds {
		n, err := sumPerCPU(p.objects.maps.RingFull, uint32(k))
		if err != nil {
			return l, 0, fmt.Errorf("read map %s: %w", probeMapRingFull, err)
		}
		if n > 0 {
			l.Ring[Kind(k)] = n
		}
	}
	var err error
	if l.Wire, err = p.objects.counter(probeCounterCOUNTER_WIRE_FULL); err != nil {
		return l, 0, err
	}
	unparsed, err := p.objects.counter(probeCounterCOUNTER_UNPARSED)
	if err != nil {
		return l, 0, err
	}
	for _, s := range p.sensors {
		missed, err := s.Missed()
		if err != nil {
			return l, 0, fmt.Errorf("what %s missed: %w", s.Name(), err)
		}
		l.Missed += missed
		if u, ok := s.(uncounted); ok && u.Uncounted() {
			l.Uncounted = append(l.Uncounted, s.Name())
		}
	}
	return l, unparsed, nil
}

// uncounted is a sensor whose Missed says less than there may be.
type uncounted interface {
	// Uncounted: this kernel leaves out runs of its programs and counts none.
	Uncounted() bool
}

// missesCounted reports whether this kernel counts what it leaves out of programs
// at perf events (kprobes, tracepoints) and at kprobe.multi links. All of that
// came at once, in Linux 6.7, and shows in the kernel's own types: a link's
// information has the number since then.
var missesCounted = sync.OnceValue(func() bool {
	types, err := kernel.Types().Kernel()
	if err != nil {
		return false
	}
	var info *btf.Struct
	if err := types.TypeByName("bpf_link_info", &info); err != nil {
		return false
	}
	return hasMember(info, "missed")
})

// hasMember looks for a member in a type and all that it is made of.
func hasMember(t btf.Type, name string) bool {
	var members []btf.Member
	switch x := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = x.Members
	case *btf.Union:
		members = x.Members
	}
	return slices.ContainsFunc(members, func(m btf.Member) bool {
		return m.Name == name || hasMember(m.Type, name)
	})
}

func (o *objects) counter(c probeCounter) (uint64, error) {
	n, err := sumPerCPU(o.maps.Counters, uint32(c))
	if err != nil {
		return 0, fmt.Errorf("read map %s: %w", probeMapCounters, err)
	}
	return n, nil
}

// recursionMisses sums the runs that the kernel left out because a program was
// running on that CPU already.
func recursionMisses(progs ...*ebpf.Program) (uint64, error) {
	var sum uint64
	for _, prog := range progs {
		stats, err := prog.Stats()
		if err != nil {
			return 0, fmt.Errorf("statistics of program %s: %w", prog, err)
		}
		sum += stats.RecursionMisses
	}
	return sum, nil
}

// probeMisses is how often a kprobe was hit while it, or another one, was handled,
// and its program not run: beside recursionMisses. Where the kernel does not
// count it, Uncounted says so.
func probeMisses(l link.Link) (uint64, error) {
	if !missesCounted() {
		return 0, nil
	}
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("state of a link: %w", err)
	}
	if multi := info.KprobeMulti(); multi != nil {
		return multi.Missed, nil
	}
	if event := info.PerfEvent(); event != nil && event.Kprobe() != nil {
		return event.Kprobe().Missed, nil
	}
	return 0, nil
}

func sumPerCPU(m *ebpf.Map, key uint32) (uint64, error) {
	var values []uint64
	if err := m.Lookup(key, &values); err != nil {
		return 0, err
	}
	var sum uint64
	for _, v := range values {
		sum += v
	}
	return sum, nil
}

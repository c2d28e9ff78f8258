package probe

import (
	"fmt"

	"github.com/cilium/ebpf"
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
	}
	return l, unparsed, nil
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

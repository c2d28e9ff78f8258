package probe

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// The second copy of the state program keeps still about what the first one took,
// and reports what the first one did not see, as when the kernel leaves it out
// because it is running already.
func TestSecondCopy(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF)
	o, err := Options{}.normalize()
	must(t, err)
	obj, err := newObjects(o)
	must(t, err)
	defer obj.Close()
	s := &stateRaw{}
	must(t, s.Open(obj, Target{}))
	// Detached, so that nothing else on this machine counts.
	for _, link := range s.closers[2:] {
		must(t, link.Close())
	}
	defer closePrograms([]*ebpf.Program{s.progs.First, s.progs.Second})
	before, err := obj.counter(probeCounterCOUNTER_RESCUED)
	must(t, err)

	first, second := s.progs.First, s.progs.Second
	const one, other = 0x1000, 0x2000 // addresses of no socket
	for i, c := range []struct {
		prog    *ebpf.Program
		sock    uint64
		rescued uint64
	}{
		{first, one, 0}, {second, one, 0}, // the rule
		{second, one, 1},   // the first one was left out
		{first, one, 1},    // begins
		{second, other, 2}, // nested in it: the first one is running
		{second, one, 2},   // and goes on
	} {
		_, err := c.prog.Run(&ebpf.RunOptions{
			Context: [3]uint64{c.sock, tcpSynSent, tcpEstablished}, Flags: unix.BPF_F_TEST_RUN_ON_CPU,
		})
		must(t, err)
		got, err := obj.counter(probeCounterCOUNTER_RESCUED)
		must(t, err)
		if got-before != c.rescued {
			t.Errorf("step %d: %d changes taken by the second copy, want %d", i, got-before, c.rescued)
		}
	}
}

package probe

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

// The kernel's functions that providers look at.
const (
	setState = "tcp_set_state"
	connect  = "__inet_stream_connect" // sendto(MSG_FASTOPEN) comes by it as well
)

// argumentOffsets are the places of the registers of the first two arguments in
// struct pt_regs (arch/*/include/asm/ptrace.h), in bytes, by architecture.
var argumentOffsets = map[string][2]uint32{
	"amd64": {112, 104}, // di, si
	"arm64": {0, 8},     // regs[0], regs[1]
}

// errArguments is returned on an architecture whose registers are not known here.
var errArguments = fmt.Errorf("where %s passes arguments is not known: %w", runtime.GOARCH, ebpf.ErrNotSupported)

func setArgumentOffsets(spec *ebpf.CollectionSpec) error {
	offsets := argumentOffsets[runtime.GOARCH]
	for i, name := range []string{probeVarCfgArg1, probeVarCfgArg2} {
		if err := spec.Variables[name].Set(offsets[i]); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// stateFentry sees changes of TCP state at the entry of the function that makes
// them, with its typed arguments.
type stateFentry struct {
	twice
	progs struct {
		First  *ebpf.Program `ebpf:"state_fentry"`
		Second *ebpf.Program `ebpf:"state_fentry_again"`
	}
}

func (*stateFentry) Name() string { return "fentry/" + setState }

func (s *stateFentry) Open(o *objects, _ Target) error {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	// At a function's entry the newest program runs first (kernel/bpf/trampoline.c).
	order := []*ebpf.Program{s.progs.Second, s.progs.First}
	return s.attachInOrder(o, s.progs.First, order, attachTracing)
}

func attachTracing(p *ebpf.Program) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: p})
}

// connectFentry sees what applications ask for, by TCP alone.
type connectFentry struct {
	function
	progs struct {
		Connect *ebpf.Program `ebpf:"connect_fentry"`
	}
}

func (*connectFentry) Name() string { return "fentry/" + connect }

func (c *connectFentry) Open(o *objects, _ Target) error {
	if err := o.load(&c.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	return c.attach(c.progs.Connect, func(p *ebpf.Program) (io.Closer, error) { return attachTracing(p) })
}

// function owns one program at a function. While it runs, the kernel runs no
// second one of its kind on the same CPU and counts what it left out: under load
// that makes verdicts inconclusive, so the providers that are attached twice come
// first.
type function struct {
	prog    *ebpf.Program
	link    io.Closer
	closers closers
}

func (f *function) attach(p *ebpf.Program, attach func(*ebpf.Program) (io.Closer, error)) error {
	f.prog, f.closers = p, closers{p}
	l, err := attach(p)
	if err != nil {
		return errors.Join(fmt.Errorf("attach: %w", err), f.Close())
	}
	f.link, f.closers = l, append(f.closers, l)
	return nil
}

// Watch does nothing: the hook is the machine's.
func (*function) Watch(Target) (io.Closer, error) { return nil, nil }

// Missed is the runs that the kernel left out.
func (f *function) Missed() (uint64, error) {
	n, err := recursionMisses(f.prog)
	if err != nil || f.prog.Type() != ebpf.Kprobe {
		return n, err
	}
	l, ok := f.link.(link.Link)
	if !ok {
		return n, nil
	}
	more, err := probeMisses(l)
	return n + more, err
}

// Uncounted: kprobes before Linux 6.7. The list of misses in tracefs,
// kprobe_profile, has only kprobes that were made there.
func (f *function) Uncounted() bool { return f.prog.Type() == ebpf.Kprobe && !missesCounted() }

// Close detaches and unloads.
func (f *function) Close() error { return f.closers.Close() }

func attachKprobe(symbol string) func(*ebpf.Program) (io.Closer, error) {
	return func(p *ebpf.Program) (io.Closer, error) {
		if _, known := argumentOffsets[runtime.GOARCH]; !known {
			return nil, errArguments
		}
		return kernel.AttachKprobe(symbol, p, false, 0)
	}
}

func attachMulti(symbol string) func(*ebpf.Program) (io.Closer, error) {
	return func(p *ebpf.Program) (io.Closer, error) {
		if _, known := argumentOffsets[runtime.GOARCH]; !known {
			return nil, errArguments
		}
		return link.KprobeMulti(p, link.KprobeMultiOptions{Symbols: []string{symbol}})
	}
}

// stateKprobe is stateFentry by a kprobe. It cannot make a cookie.
type stateKprobe struct {
	function
	progs struct {
		State *ebpf.Program `ebpf:"state_kprobe"`
	}
}

func (*stateKprobe) Name() string { return "kprobe/" + setState }

func (s *stateKprobe) Open(o *objects, _ Target) error {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	return s.attach(s.progs.State, attachKprobe(setState))
}

// stateMulti is stateKprobe by a link of kind kprobe.multi.
type stateMulti struct {
	function
	progs struct {
		State *ebpf.Program `ebpf:"state_multi"`
	}
}

func (*stateMulti) Name() string { return "kprobe.multi/" + setState }

func (s *stateMulti) Open(o *objects, _ Target) error {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	return s.attach(s.progs.State, attachMulti(setState))
}

// connectKprobe is connectFentry by a kprobe: a socket that nobody asked for its
// cookie has none yet.
type connectKprobe struct {
	function
	progs struct {
		Connect *ebpf.Program `ebpf:"connect_kprobe"`
	}
}

func (*connectKprobe) Name() string { return "kprobe/" + connect }

func (c *connectKprobe) Open(o *objects, _ Target) error {
	if err := o.load(&c.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	return c.attach(c.progs.Connect, attachKprobe(connect))
}

// connectMulti is connectKprobe by a link of kind kprobe.multi.
type connectMulti struct {
	function
	progs struct {
		Connect *ebpf.Program `ebpf:"connect_multi"`
	}
}

func (*connectMulti) Name() string { return "kprobe.multi/" + connect }

func (c *connectMulti) Open(o *objects, _ Target) error {
	if err := o.load(&c.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	return c.attach(c.progs.Connect, attachMulti(connect))
}

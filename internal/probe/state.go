package probe

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// stateBTF sees changes of TCP state by the typed tracepoint, which knows the
// socket cookie of every socket.
type stateBTF struct {
	twice
	progs struct {
		First  *ebpf.Program `ebpf:"state_btf"`
		Second *ebpf.Program `ebpf:"state_btf_again"`
	}
}

func (*stateBTF) Name() string { return "tp_btf/inet_sock_set_state" }

func (s *stateBTF) Open(o *objects, _ Target) error {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	return s.attach(o, s.progs.First, s.progs.Second, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	})
}

// stateRaw sees the same by the raw tracepoint. It reads the cookie and cannot
// make one: a socket that nobody asked for its cookie has none yet, which is the
// rule for accepted sockets.
type stateRaw struct {
	twice
	progs struct {
		First  *ebpf.Program `ebpf:"state_raw"`
		Second *ebpf.Program `ebpf:"state_raw_again"`
	}
}

func (*stateRaw) Name() string { return "raw_tp/inet_sock_set_state" }

func (s *stateRaw) Open(o *objects, _ Target) error {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	return s.attach(o, s.progs.First, s.progs.Second, func(p *ebpf.Program) (link.Link, error) {
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "inet_sock_set_state", Program: p})
	})
}

// twice owns two copies of a program at one tracepoint: the second takes what
// the kernel did not give to the first (bpf/probe/state.h).
type twice struct {
	first   *ebpf.Program
	objects *objects
	closers closers
}

// attach attaches the first copy first: programs of one tracepoint run in the
// order in which they came. It owns both from then on.
func (t *twice) attach(o *objects, first, second *ebpf.Program, attach func(*ebpf.Program) (link.Link, error)) error {
	return t.attachInOrder(o, first, []*ebpf.Program{first, second}, attach)
}

// attachInOrder attaches the copies, of which first is the one that is to run first.
func (t *twice) attachInOrder(o *objects, first *ebpf.Program, order []*ebpf.Program, attach func(*ebpf.Program) (link.Link, error)) error {
	t.first, t.objects = first, o
	for _, p := range order {
		t.closers = append(t.closers, p)
	}
	for _, p := range order {
		l, err := attach(p)
		if err != nil {
			return errors.Join(fmt.Errorf("attach: %w", err), t.Close())
		}
		t.closers = append(t.closers, l)
	}
	return nil
}

// Watch does nothing: the hook is the machine's.
func (*twice) Watch(Target) (io.Closer, error) { return nil, nil }

// Missed is the runs that the kernel left out of the first copy, less those that
// the second one took.
func (t *twice) Missed() (uint64, error) {
	missed, err := recursionMisses(t.first)
	if err != nil {
		return 0, err
	}
	rescued, err := t.objects.counter(probeCounterCOUNTER_RESCUED)
	if err != nil {
		return 0, err
	}
	return missed - min(missed, rescued), nil
}

// Close detaches and unloads both.
func (t *twice) Close() error { return t.closers.Close() }

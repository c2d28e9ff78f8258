// Package hops follows requests through the processes of some cgroups from outside:
// their system calls, the bytes that went through TCP sockets, and when the scheduler
// woke and ran their threads. It costs every system call and every switch of the
// machine some time, so what it says is where time goes and not how much there is.
package hops

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -type hop -type kind -type flag hops ../../../bpf/hops/hops.bpf.c -- -I../../../bpf/include

// Kind is what happened.
type Kind uint8

// The kinds.
const (
	// Call: a system call has returned.
	Call = Kind(hopsKindKIND_CALL)
	// Switch: a processor went from one thread to another.
	Switch = Kind(hopsKindKIND_SWITCH)
	// Waking: a thread may run again.
	Waking = Kind(hopsKindKIND_WAKING)
)

// Event is one of them. Times are nanoseconds of CLOCK_MONOTONIC.
type Event struct {
	Kind Kind
	At   int64
	// Role and Thread are of who called, was woken, or gave the processor up; Role is
	// an index into what Open was given, -1 where it is nobody of them.
	Role   int
	Thread uint32
	// NextRole and Next are of who got the processor.
	NextRole int
	Next     uint32
	// Began is when the call was made, Number which system call it is.
	Began  int64
	Number int
	// Value is the number of bytes where Sent or Read is set, else what the call
	// returned.
	Value      int
	Sent, Read bool
	// Sleeps: the thread gave the processor up to wait for something.
	Sleeps bool
}

// Tracer watches until it is closed.
type Tracer struct {
	objects hopsObjects
	links   []io.Closer
	ring    *ringbuf.Reader
}

// ringBytes holds about 800 000 events: nothing is read while requests run.
const ringBytes = 32 << 20

// Open watches the processes in the cgroups, each of which is a role, and not those in
// cgroups below. The descriptors may be closed then. A thread is known from its first
// system call on. The caller closes the Tracer.
func Open(roles ...*os.File) (_ *Tracer, err error) {
	t := new(Tracer)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	spec, err := loadHops()
	if err != nil {
		return nil, fmt.Errorf("read the tracer of requests: %w", err)
	}
	spec.Maps["hops"].MaxEntries = ringBytes
	if err := spec.LoadAndAssign(&t.objects, nil); err != nil {
		return nil, fmt.Errorf("load the tracer of requests: %w", err)
	}
	for i, dir := range roles {
		var st unix.Stat_t
		if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
			return nil, fmt.Errorf("id of cgroup %s: %w", dir.Name(), err)
		}
		if err := t.objects.Roles.Put(st.Ino, uint8(i+1)); err != nil {
			return nil, fmt.Errorf("watch cgroup %s: %w", dir.Name(), err)
		}
	}
	if t.ring, err = ringbuf.NewReader(t.objects.Hops); err != nil {
		return nil, fmt.Errorf("open the ring of events: %w", err)
	}
	return t, t.attach()
}

func (t *Tracer) attach() error {
	for name, prog := range map[string]*ebpf.Program{
		"sys_enter": t.objects.OnEnter, "sys_exit": t.objects.OnExit,
		"sock_send_length": t.objects.OnSent, "sock_recv_length": t.objects.OnRead,
		"sched_waking": t.objects.OnWaking, "sched_switch": t.objects.OnSwitch,
	} {
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: name, Program: prog})
		if err != nil {
			return fmt.Errorf("attach to tracepoint %s: %w", name, err)
		}
		t.links = append(t.links, l)
	}
	return nil
}

// Stop ends the watch and returns what was seen, in the order of time, and how many
// events found no room.
func (t *Tracer) Stop() (all []Event, lost uint64, err error) {
	if err := t.detach(); err != nil {
		return nil, 0, err
	}
	if err := t.objects.Lost.Lookup(uint32(0), &lost); err != nil {
		return nil, 0, fmt.Errorf("read how many events were lost: %w", err)
	}
	t.ring.SetDeadline(time.Now()) // what is there, and no waiting
	for {
		record, err := t.ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, lost, fmt.Errorf("read events: %w", err)
		}
		e, err := decode(record.RawSample)
		if err != nil {
			return nil, lost, err
		}
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	return all, lost, nil
}

func (t *Tracer) detach() error {
	var errs []error
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	t.links = nil
	return errors.Join(errs...)
}

// Close lets go of everything.
func (t *Tracer) Close() error {
	err := t.detach()
	if t.ring != nil {
		err = errors.Join(err, t.ring.Close())
		t.ring = nil
	}
	return errors.Join(err, t.objects.Close())
}

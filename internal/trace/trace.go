package trace

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
)

// Options say what is to be named. At least one is set.
type Options struct {
	// Stack names the functions between connect and accept, per connection.
	Stack bool
	// Drops says why packets were thrown away.
	Drops bool
	// Functions are counted.
	Functions []string
	// ways are those to try; nil: all.
	ways []way
}

// Count is the calls of one function.
type Count struct {
	Function string `json:"function"`
	// Calls are all of the machine. Watched are those while a task of a watched
	// namespace had the CPU: what a packet causes is on whoever it interrupts.
	Calls   uint64 `json:"calls"`
	Watched uint64 `json:"watched"`
}

// Trace is programs at functions and tracepoints of the kernel, until it is closed.
// Its methods may be called by several goroutines.
type Trace struct {
	// By says which way each part took: "stack", "functions", "drops".
	By map[string]string
	// Left are the functions at which no program could stand.
	Left []string

	options Options
	objects *objects
	closers []io.Closer
	pods    []string
	namer   *namer

	mu       sync.Mutex
	ring     *ringbuf.Reader
	record   ringbuf.Record
	attempts *attempts
	drops    drops
}

// Open begins. A kernel that has no way to it is a NoFunctionsError, or an error
// that [kernel.Missing] knows.
func Open(targets []probe.Target, o Options) (_ *Trace, err error) {
	t := &Trace{By: map[string]string{}, options: o, attempts: newAttempts()}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.objects, err = newObjects(len(o.Functions)); err != nil {
		return nil, err
	}
	t.closers = append(t.closers, t.objects)
	if t.ring, err = ringbuf.NewReader(t.objects.maps.TraceEvents); err != nil {
		return nil, fmt.Errorf("open the ring of sightings: %w", err)
	}
	t.closers = append(t.closers, t.ring)
	if err := t.attach(); err != nil {
		return nil, err
	}
	for _, target := range targets {
		if err := t.watch(target); err != nil {
			return nil, fmt.Errorf("watch pod %s: %w", target.Pod, err)
		}
	}
	return t, nil
}

func (t *Trace) attach() (err error) {
	if t.options.Drops {
		if t.namer, err = newNamer(); err != nil {
			return err
		}
		if err := t.attachDrops(); err != nil {
			return err
		}
	}
	if t.options.Stack {
		places, err := t.ofThisKernel(onTheWay)
		if err != nil {
			return err
		}
		if err := t.stand("stack", jobCall, places); err != nil {
			return err
		}
	}
	if len(t.options.Functions) > 0 {
		var places []place
		for i, name := range t.options.Functions {
			places = append(places, place{name: name, cookie: uint64(i)})
		}
		return t.stand("functions", jobCount, places)
	}
	return nil
}

func (t *Trace) stand(what, job string, places []place) error {
	a, by, err := stand(t.objects, t.options.ways, job, places)
	if err != nil {
		return err
	}
	t.closers = append(t.closers, a)
	t.By[what], t.Left = by, append(t.Left, a.left...)
	return nil
}

// ofThisKernel keeps the functions that the kernel has, once each.
func (t *Trace) ofThisKernel(functions []function) ([]place, error) {
	all, err := symbols()
	if err != nil {
		return nil, err
	}
	times := map[string]int{}
	for _, s := range all {
		times[s.name]++
	}
	var places []place
	for i, f := range functions {
		if times[f.name] != 1 {
			t.Left = append(t.Left, f.name)
			continue
		}
		places = append(places, place{f.name, f.atReturn(), f.cookie(i)})
	}
	return places, nil
}

// attachDrops stands at tracepoint kfree_skb, by its types or by its arguments.
func (t *Trace) attachDrops() error {
	var not []error
	for _, w := range []struct{ name, program string }{
		{"tp_btf/kfree_skb", traceProgDropBtf}, {"raw_tp/kfree_skb", traceProgDropRaw},
	} {
		prog, err := t.objects.program(w.program, "")
		if err == nil {
			t.closers = append(t.closers, prog)
			var l link.Link
			if prog.Type() == ebpf.Tracing {
				l, err = link.AttachTracing(link.TracingOptions{Program: prog})
			} else {
				l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: "kfree_skb", Program: prog})
			}
			if err == nil {
				t.closers = append(t.closers, l)
				t.By["drops"] = w.name
				return nil
			}
		}
		if !kernel.Missing(err) {
			return fmt.Errorf("see dropped packets by %s: %w", w.name, err)
		}
		not = append(not, fmt.Errorf("%s: %w", w.name, err))
	}
	return fmt.Errorf("see dropped packets: %w", errors.Join(not...))
}

// watch gives a pod a number, and its namespace and links to the programs.
func (t *Trace) watch(target probe.Target) error {
	number := uint32(len(t.pods))
	t.pods = append(t.pods, target.Pod)
	cookie, err := kernel.NetnsCookie(target.Netns)
	if err != nil {
		return err
	}
	if err := t.objects.maps.Watched.Put(cookie, number); err != nil {
		return fmt.Errorf("write its number: %w", err)
	}
	for _, l := range target.Links {
		cookie, err := kernel.NetnsCookie(l.Netns)
		if err != nil {
			return err
		}
		key := traceTraceLink{Netns: cookie, Ifindex: uint32(l.Ifindex)}
		if err := t.objects.maps.Links.Put(key, number); err != nil {
			return fmt.Errorf("write interface %d: %w", l.Ifindex, err)
		}
	}
	return nil
}

// keep is how long calls wait for somebody to ask for their connection.
const keep = 5 * time.Minute

// read takes what is in the ring. t.mu must be held.
func (t *Trace) read() error {
	t.ring.SetDeadline(time.Unix(1, 0)) // what is there, and no waiting
	var last int64
	for {
		err := t.ring.ReadInto(&t.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.attempts.expire(last - int64(keep))
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the ring of sightings: %w", err)
		}
		var s traceSighting
		if len(t.record.RawSample) < int(unsafe.Sizeof(s)) {
			return fmt.Errorf("a sighting of %d bytes: the programs are not of this build", len(t.record.RawSample))
		}
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&s)), unsafe.Sizeof(s)), t.record.RawSample)
		last = int64(s.TimeNs)
		t.sighted(s)
	}
}

func (t *Trace) sighted(s traceSighting) {
	src, dst := address(s.Src, s.Sport), address(s.Dst, s.Dport)
	pod := ""
	if int(s.Pod) < len(t.pods) {
		pod = t.pods[s.Pod]
	}
	if traceTraceKind(s.Kind) == traceTraceKindTRACE_DROP {
		t.drops.add(Drop{
			Pod: pod, Reason: t.namer.reason(s.What), Function: t.namer.function(s.Location),
			Protocol: s.Protocol, Src: src, Dst: dst, Cookie: s.Cookie,
		}, int64(s.TimeNs))
		return
	}
	if int(s.What) >= len(onTheWay) {
		return
	}
	t.attempts.add(call{
		Call: Call{At: int64(s.TimeNs), Function: onTheWay[s.What].name},
		pod:  pod, sock: s.Sock, cookie: s.Cookie, flags: s.Flags, ends: ends{pod, src, dst},
	})
}

// address makes one of fields in network byte order, v4-mapped as IPv4.
func address(words [4]uint32, port uint16) netip.AddrPort {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	var p [2]byte
	binary.NativeEndian.PutUint16(p[:], port)
	return netip.AddrPortFrom(netip.AddrFrom16(b).Unmap(), binary.BigEndian.Uint16(p[:]))
}

// Calls returns the functions that one end of a connection passed, in order, once:
// they are forgotten.
func (t *Trace) Calls(l probe.Line) ([]Call, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.read(); err != nil {
		return nil, err
	}
	return t.attempts.take(l.Cookie, ends{l.Pod, l.Local, l.Peer}), nil
}

// Drops returns the packets that were thrown away since the last call.
func (t *Trace) Drops() ([]DropCount, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.read(); err != nil {
		return nil, err
	}
	return t.drops.take(), nil
}

// Counts returns the calls of the counted functions so far, the most first.
func (t *Trace) Counts() ([]Count, error) {
	var counts []Count
	for i, name := range t.options.Functions {
		var perCPU []traceTraceCalls
		if err := t.objects.maps.TraceCounts.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read calls of %s: %w", name, err)
		}
		c := Count{Function: name}
		for _, n := range perCPU {
			c.Calls, c.Watched = c.Calls+n.All, c.Watched+n.Watched
		}
		counts = append(counts, c)
	}
	slices.SortStableFunc(counts, func(a, b Count) int { return cmp.Compare(b.Calls, a.Calls) })
	return counts, nil
}

// Lost is how many sightings found no room in the ring.
func (t *Trace) Lost() (uint64, error) {
	var perCPU []uint64
	if err := t.objects.maps.TraceFull.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read lost sightings: %w", err)
	}
	var n uint64
	for _, v := range perCPU {
		n += v
	}
	return n, nil
}

// Close detaches everything. It may be called again.
func (t *Trace) Close() error {
	var errs []error
	for _, c := range slices.Backward(t.closers) {
		errs = append(errs, c.Close())
	}
	t.closers = nil
	return errors.Join(errs...)
}

package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Options of a Probe. The zero value is ready to use.
type Options struct {
	// RingBytes is the size of the event ring, a power of two and at least one
	// page; 0 is 16 MiB. One connection takes up to ten events of 88 bytes.
	RingBytes int
	// Poll is the time between two reads of the ring; 0 is 10 ms. The ring must
	// hold what happens in between.
	Poll time.Duration
	// WireEntries is the number of {link, direction, destination} counters; 0
	// is 65536, which take about 6 MB.
	WireEntries uint32
	// Named are UDP destinations that are counted by their port though Linux might
	// give that port to a client (see [WireCount.Dst]).
	Named []netip.AddrPort
	// By lists providers by name, as [Provider.Name]; of the kinds of events that
	// they report no other is tried. Empty: the best.
	By []string
	// UDP also reports what UDP sockets ask for, by connect and by send.
	UDP bool
	// AllowLate goes on, with a warning, where other programs see a connect
	// before the observer; otherwise that is an [OrderError].
	AllowLate bool
	// Log gets warnings; nil discards them.
	Log *slog.Logger
}

func (o Options) normalize() (Options, error) {
	if o.RingBytes == 0 {
		o.RingBytes = 16 << 20
	}
	if o.RingBytes < os.Getpagesize() || o.RingBytes&(o.RingBytes-1) != 0 {
		return o, fmt.Errorf("event ring of %d bytes: must be a power of two, at least one page", o.RingBytes)
	}
	if o.Poll == 0 {
		o.Poll = 10 * time.Millisecond
	}
	if o.Poll < 0 {
		return o, fmt.Errorf("poll every %s: must be positive", o.Poll)
	}
	if o.WireEntries == 0 {
		o.WireEntries = 65536
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// late decides about programs that run before the observer.
func (o Options) late(e *OrderError) error {
	if !o.AllowLate {
		return e
	}
	o.Log.Warn("what applications ask for may be what other programs made of it",
		"cgroup", e.Cgroup, "before", e.Before)
	return nil
}

// Probe observes pods until it is closed. Its methods may be called by several
// goroutines.
type Probe struct {
	objects   *objects
	sensors   []sensor
	providers map[Kind]Provider
	closers   closers // everything that must be undone, but for the pods

	change  sync.Mutex // held while pods come and go
	pods    map[string]*watched
	lastPod uint32
	lastLnk uint32
	// detached lists what others took away, altered what they changed in the maps.
	detached, altered []string

	mu      sync.Mutex // guards what the reader goroutine writes
	book    *book
	ring    *ringbuf.Reader
	record  ringbuf.Record
	event   event
	readErr error

	stop, stopped chan struct{}
}

// Open attaches the judge to targets; when it returns, everything that they do is
// seen. More may be added later. It fails where an observer fails for any other
// reason than that this kernel has no such thing, and where changes of TCP state
// cannot be seen at all; what else is not seen, [Probe.Providers] says.
func Open(ctx context.Context, targets []Target, o Options) (*Probe, error) {
	o, err := o.normalize()
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		if err := t.validate(); err != nil {
			return nil, err
		}
	}
	chosen, err := choose(ladders(o), o.By)
	if err != nil {
		return nil, err
	}
	return open(ctx, targets, o, chosen)
}

func open(ctx context.Context, targets []Target, o Options, ladders []ladder) (_ *Probe, err error) {
	p := &Probe{
		providers: map[Kind]Provider{}, pods: map[string]*watched{}, book: newBook(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.undo())
		}
	}()
	if err := kernel.BPF.Probe(); err != nil {
		return nil, fmt.Errorf("the judge needs root and the bpf system call: %w", err)
	}
	if p.objects, err = newObjects(o); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.objects)
	if err := p.objects.name(o.Named); err != nil {
		return nil, err
	}
	var trial Target
	if len(targets) > 0 {
		trial = targets[0]
	}
	for _, l := range ladders {
		if err := p.climb(l, trial); err != nil {
			return nil, err
		}
	}
	if p.ring, err = newReader(p.objects); err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.ring)
	for _, t := range targets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := p.Add(t); err != nil {
			return nil, err
		}
	}
	go p.poll(o.Poll)
	return p, nil
}

func (p *Probe) climb(l ladder, trial Target) error {
	s, provider, err := l.climb(p.objects, trial)
	if err != nil {
		return err
	}
	if s != nil {
		p.sensors = append(p.sensors, s)
		p.closers = append(p.closers, s)
	}
	for _, k := range l.kinds {
		p.providers[k] = provider
	}
	return nil
}

// Providers says which hook reports each kind of event, and which better ones
// this kernel lacks.
func (p *Probe) Providers() map[Kind]Provider { return maps.Clone(p.providers) }

// Ledger reads the ring up to where it is now and returns all that is known.
func (p *Probe) Ledger(ctx context.Context) (Ledger, error) { return p.ledger(ctx, false) }

// Take is Ledger, and then forgets the connections that are over, so that a
// watch may last for ever. Counters go on.
func (p *Probe) Take(ctx context.Context) (Ledger, error) { return p.ledger(ctx, true) }

// closingFor is how long Settle waits for the end of a connection that its
// application has let go of: longer than a lost FIN takes to be sent again, and
// not for ever, because the end may have been missed.
const closingFor = 2 * time.Second

// Settle waits until no connection is open, or ctx is done, and returns the
// Ledger; then it lists those that are still open. It does not wait once
// something was lost: the end of a connection may be what is missing.
func (p *Probe) Settle(ctx context.Context) (Ledger, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		settled, err := p.settled()
		if err != nil {
			return Ledger{}, err
		}
		if settled {
			break
		}
		select {
		case <-ctx.Done():
			return p.Ledger(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
	return p.Ledger(context.WithoutCancel(ctx))
}

// settled drains the ring and reports whether every judged connection is over,
// as far as that can still be known.
func (p *Probe) settled() (bool, error) {
	now, err := monotonic()
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.read(); err != nil {
		return false, err
	}
	for _, e := range p.book.entries {
		closing := e.State == StateClosing && now-e.ReleasedAt < int64(closingFor)
		if (e.Open() || closing) && !e.before && !e.done {
			lost, _, err := p.lost()
			return lost.Total() > 0, err
		}
	}
	return true, nil
}

// read drains the ring, or returns why it can no longer be read. p.mu must be
// held.
func (p *Probe) read() error {
	if p.readErr == nil {
		p.readErr = p.drain()
	}
	return p.readErr
}

func (p *Probe) ledger(ctx context.Context, forget bool) (Ledger, error) {
	if err := ctx.Err(); err != nil {
		return Ledger{}, err
	}
	l := Ledger{Providers: p.Providers(), Events: map[Kind]uint64{}}
	detached, err := p.noticed()
	if err != nil {
		return Ledger{}, fmt.Errorf("what the judge is attached to: %w", err)
	}
	links, err := p.page(&l, forget)
	if err != nil {
		return Ledger{}, err
	}
	wire, altered, err := p.inspected()
	if err != nil {
		return Ledger{}, err
	}
	l.Wire = wireCounts(wire, links)
	if l.Lost, l.Unparsed, err = p.lost(); err != nil {
		return Ledger{}, err
	}
	l.Lost.Detached, l.Lost.Altered = detached, altered
	return l, nil
}

// page reads the ring and writes what the book knows into l. It returns the links
// that are known. The ring waits meanwhile, so nothing else is done here.
func (p *Probe) page(l *Ledger, forget bool) (map[uint32]linkInfo, error) {
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.read(); err != nil {
		return nil, err
	}
	if forget {
		p.book.expire(now)
	}
	p.book.snapshot(l)
	if forget {
		p.book.forget()
	}
	return maps.Clone(p.book.links), nil
}

// Close detaches everything. It may be called again.
func (p *Probe) Close() error {
	p.change.Lock()
	defer p.change.Unlock()
	if p.closers == nil {
		return nil
	}
	close(p.stop)
	<-p.stopped
	p.mu.Lock()
	p.readErr = errors.New("the probe is closed")
	p.mu.Unlock()
	return p.undo()
}

// undo closes the newest first: programs outlive their links, maps their
// programs.
func (p *Probe) undo() error {
	var errs []error
	for _, w := range p.pods {
		errs = append(errs, w.links.Close())
	}
	p.pods = map[string]*watched{}
	return errors.Join(append(errs, p.closers.Close())...)
}

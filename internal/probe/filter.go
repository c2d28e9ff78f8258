package probe

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// filterWire sees packets by traffic control filters, where the kernel has no tcx.
// A program cannot ask which interface of which namespace it runs on, so each
// link has a class of its own, which the kernel shows to the program.
type filterWire struct {
	progs struct {
		Ingress *ebpf.Program `ebpf:"filter_ingress"`
		Egress  *ebpf.Program `ebpf:"filter_egress"`
	}
	classes *ebpf.Map

	mu   sync.Mutex
	last uint32
	free []uint32
}

func (*filterWire) Name() string { return "clsact" }

func (w *filterWire) Open(o *objects, t Target) error {
	if err := o.load(&w.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	w.classes = o.maps.Classes
	if err := w.try(t); err != nil {
		return errors.Join(err, w.Close())
	}
	return nil
}

// try attaches for a moment to the first link of t, or to the loopback interface
// of a namespace of its own.
func (w *filterWire) try(t Target) error {
	l := Link{Ifindex: loopback}
	if len(t.Links) > 0 {
		l = t.Links[0]
	} else {
		scratch, err := kernel.NewNetns()
		if err != nil {
			return err
		}
		defer scratch.Close()
		l.Netns = scratch
	}
	c, err := w.attach(l)
	if err != nil {
		return err
	}
	return c.Close()
}

func (w *filterWire) Watch(t Target) (io.Closer, error) {
	var all closers
	for _, l := range t.Links {
		c, err := w.attach(l)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all = append(all, c)
	}
	return &all, nil
}

// filterLink is the filters of one link.
type filterLink struct {
	wire    *filterWire
	class   uint32
	handle  *netlink.Handle
	filters []*netlink.BpfFilter
	// clsact is the place for filters, where it was made for them.
	clsact  netlink.Qdisc
	ifindex int
}

func (w *filterWire) attach(l Link) (_ *filterLink, err error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(l.Netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink in network namespace %s: %w", l.Netns.Name(), err)
	}
	f := &filterLink{wire: w, handle: h, ifindex: l.Ifindex}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.class, err = w.newClass(l); err != nil {
		return nil, err
	}
	if f.clsact, err = kernel.AddClsact(h, l.Ifindex); err != nil {
		return nil, err
	}
	for parent, prog := range f.progs() {
		filter, err := kernel.AddFilter(h, l.Ifindex, parent, prog, f.class)
		if err != nil {
			return nil, err
		}
		f.filters = append(f.filters, filter)
	}
	return f, nil
}

// newClass gives a link a class that no other has, and says so to the programs.
func (w *filterWire) newClass(l Link) (uint32, error) {
	cookie, err := kernel.NetnsCookie(l.Netns)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	class := w.last + 1
	if n := len(w.free); n > 0 {
		class, w.free = w.free[n-1], w.free[:n-1]
	} else if class > math.MaxUint16 {
		return 0, fmt.Errorf("watch interface %d: clsact tells at most %d interfaces apart", l.Ifindex, math.MaxUint16)
	} else {
		w.last = class
	}
	key := probeLinkKey{Netns: cookie, Ifindex: uint32(l.Ifindex)}
	if err := w.classes.Put(class, key); err != nil {
		w.free = append(w.free, class)
		return 0, fmt.Errorf("write map %s: %w", probeMapClasses, err)
	}
	return class, nil
}

func (w *filterWire) dropClass(class uint32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free = append(w.free, class)
	return absent(w.classes.Delete(class))
}

// Close takes the filters away. An interface that has gone took them along.
func (f *filterLink) Close() error {
	if f.handle == nil {
		return nil
	}
	var errs []error
	for _, filter := range f.filters {
		errs = append(errs, gone(f.handle.FilterDel(filter)))
	}
	if f.clsact != nil {
		errs = append(errs, f.dropClsact())
	}
	f.handle.Close()
	f.handle = nil
	if f.class != 0 {
		errs = append(errs, f.wire.dropClass(f.class))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take filters from interface %d: %w", f.ifindex, err)
	}
	return nil
}

// dropClsact removes the place for filters, unless somebody else uses it now.
func (f *filterLink) dropClsact() error {
	on := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: f.ifindex}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		others, err := f.handle.FilterList(on, parent)
		if err != nil {
			return gone(err)
		}
		if len(others) > 0 {
			return nil
		}
	}
	return gone(f.handle.QdiscDel(f.clsact))
}

// gone makes an interface or filter that is no longer there no error.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Missed is 0: a filter runs for every packet.
func (*filterWire) Missed() (uint64, error) { return 0, nil }

func (w *filterWire) Close() error {
	return closePrograms([]*ebpf.Program{w.progs.Ingress, w.progs.Egress})
}

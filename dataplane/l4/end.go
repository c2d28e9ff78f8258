package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// Ended is a connected UDP socket that was ended, since its endpoint has left the
// service.
type Ended struct {
	// Asked is the frontend that the socket connected to, Target the endpoint.
	Asked  intent.Frontend
	Target netip.AddrPort
}

// loadEnder loads the program that ends UDP sockets, where the kernel can.
func (e *Engine) loadEnder(program *ebpf.ProgramSpec, spec *ebpf.CollectionSpec) error {
	switch err := kernel.SockDestroy.Probe(); {
	case kernel.Missing(err):
		e.log.Warn("this kernel cannot end UDP sockets: those connected to an endpoint that leaves a service stay connected to it",
			"feature", kernel.SockDestroy.Name, "since", kernel.SockDestroy.Since, "err", err)
		return nil
	case err != nil:
		return fmt.Errorf("try %s: %w", kernel.SockDestroy.Name, err)
	}
	var err error
	e.ender, err = e.loadIter(meshProgMeshEndUdp, program, spec)
	return err
}

// loadIter loads and attaches an iterator that works on the engine's maps.
func (e *Engine) loadIter(name string, program *ebpf.ProgramSpec, spec *ebpf.CollectionSpec) (*link.Iter, error) {
	replaced := map[string]*ebpf.Map{}
	for name, m := range e.coll.Maps {
		if !ofOneLoad(name) {
			replaced[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{
		Maps: spec.Maps, Variables: spec.Variables, ByteOrder: spec.ByteOrder, Types: spec.Types,
		Programs: map[string]*ebpf.ProgramSpec{name: program},
	}, ebpf.CollectionOptions{MapReplacements: replaced, Cache: kernel.Types()})
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", name, explain(err))
	}
	defer coll.Close()
	it, err := link.AttachIter(link.IterOptions{Program: coll.Programs[name]})
	if err != nil {
		return nil, fmt.Errorf("attach program %s: %w", name, explain(err))
	}
	e.closers = append(e.closers, it)
	return it, nil
}

// sweeps is how often sockets are looked at after a change: one whose connect()
// was decided before it may not be among the kernel's sockets yet.
const sweeps = 2

// EndStale ends the connected UDP sockets in these network namespaces whose
// endpoint has left its service: their sends are decided no more. The application
// gets ECONNABORTED from its next receive, EDESTADDRREQ from its sends, and has to
// connect anew.
//
// It is to be called after each Apply, and from time to time: a connect() that was
// decided before a change may be through only after a call. It does nothing where
// no call can find more, nor where the kernel cannot end sockets. The descriptors
// stay the caller's.
func (e *Engine) EndStale(pods ...*os.File) ([]Ended, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	if e.staleUDP == 0 || e.ender == nil {
		return nil, nil
	}
	var all []Ended
	var errs []error
	pending := 0
	for _, ns := range pods {
		ended, waiting, err := e.endIn(ns)
		all = append(all, ended...)
		pending += waiting
		if err != nil {
			errs = append(errs, fmt.Errorf("end UDP sockets of %s: %w", ns.Name(), err))
		}
	}
	if pending == 0 && len(errs) == 0 {
		e.staleUDP--
	}
	return all, errors.Join(errs...)
}

// endIn runs the iterator, which sees the sockets of the namespace that opened it.
// Pending is how many may be connecting yet: a socket is one of them a few times at
// most.
func (e *Engine) endIn(ns *os.File) (ended []Ended, pending int, err error) {
	var r io.ReadCloser
	if err := kernel.InNetns(ns, func() (err error) {
		r, err = e.ender.Open()
		return err
	}); err != nil {
		return nil, 0, err
	}
	defer r.Close()
	for {
		var f meshFlow
		err := binary.Read(r, binary.LittleEndian, &f)
		switch {
		case errors.Is(err, io.EOF):
			return ended, pending, nil
		case err != nil:
			return ended, pending, fmt.Errorf("read the ended sockets: %w", err)
		case f.Used > 0:
			pending++
		default:
			ended = append(ended, endedOf(f))
		}
	}
}

func endedOf(f meshFlow) Ended {
	return Ended{
		Asked:  intent.Frontend{Addr: wordsAddr(f.Asked), Port: swapPort(f.AskedPort), Protocol: intent.UDP},
		Target: netip.AddrPortFrom(wordsAddr(f.Target), swapPort(f.TargetPort)),
	}
}

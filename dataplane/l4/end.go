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
	}, ebpf.CollectionOptions{MapReplacements: replaced})
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

// EndStale ends the connected UDP sockets in these network namespaces whose
// endpoint has left its service: their sends are decided no more. The application
// gets ECONNABORTED from its next receive, EDESTADDRREQ from its sends, and has to
// connect anew. It does nothing where no UDP
// frontend was replaced since the last call that returned no error, and where the
// kernel cannot do it. The descriptors stay the caller's.
func (e *Engine) EndStale(pods ...*os.File) ([]Ended, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	if !e.staleUDP || e.ender == nil {
		return nil, nil
	}
	var all []Ended
	var errs []error
	for _, ns := range pods {
		ended, err := e.endIn(ns)
		all = append(all, ended...)
		if err != nil {
			errs = append(errs, fmt.Errorf("end UDP sockets of %s: %w", ns.Name(), err))
		}
	}
	e.staleUDP = len(errs) > 0
	return all, errors.Join(errs...)
}

// endIn runs the iterator, which sees the sockets of the namespace that opened it.
func (e *Engine) endIn(ns *os.File) ([]Ended, error) {
	var r io.ReadCloser
	if err := kernel.InNetns(ns, func() (err error) {
		r, err = e.ender.Open()
		return err
	}); err != nil {
		return nil, err
	}
	defer r.Close()
	var all []Ended
	for {
		var f meshFlow
		err := binary.Read(r, binary.LittleEndian, &f)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("read the ended sockets: %w", err)
		}
		all = append(all, Ended{
			Asked:  intent.Frontend{Addr: wordsAddr(f.Asked), Port: swapPort(f.AskedPort), Protocol: intent.UDP},
			Target: netip.AddrPortFrom(wordsAddr(f.Target), swapPort(f.TargetPort)),
		})
	}
}

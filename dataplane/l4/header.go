package l4

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// Some waypoints are told by a header in front of the first bytes where a connection
// was going. The programs for that are loaded and attached when the first such
// waypoint comes, and stay until Remove.

// headerFlags has what the frontends of a waypoint with such a codec have more.
var headerFlags = map[intent.Codec]meshFrontendFlag{
	intent.ProxyV2:  meshFrontendFlagFRONTEND_PROXY_V2,
	intent.KmeshTLV: meshFrontendFlagFRONTEND_KMESH_TLV,
}

const anyHeader = uint16(meshFrontendFlagFRONTEND_PROXY_V2 | meshFrontendFlagFRONTEND_KMESH_TLV)

func isHeaded(flags uint16) bool { return flags&anyHeader != 0 }

func isHandedOff(flags uint16) bool {
	return flags&uint16(meshFrontendFlagFRONTEND_WAYPOINT) != 0 && !isHeaded(flags)
}

// sockMsgStorage lets the program of a send know what the socket asked for.
var sockMsgStorage = kernel.Feature{Name: "socket storage in sk_msg", Since: "5.8", Probe: func() error {
	return kernel.HaveHelper(ebpf.SkMsg, asm.FnSkStorageGet)
}}

// tryHeaders finds whether this kernel can write headers, and takes the programs for
// that out of spec.
func (e *Engine) tryHeaders(spec *ebpf.CollectionSpec) error {
	e.headers = &ebpf.CollectionSpec{
		Maps: maps.Clone(spec.Maps), Variables: spec.Variables, ByteOrder: spec.ByteOrder, Types: spec.Types,
		Programs: map[string]*ebpf.ProgramSpec{},
	}
	for _, name := range []string{meshProgMeshHeader, meshProgMeshFirstBytes} {
		e.headers.Programs[name] = spec.Programs[name]
		delete(spec.Programs, name)
	}
	delete(spec.Maps, meshMapUnsent)
	for _, f := range []kernel.Feature{kernel.CgroupSockOps, kernel.HeaderOptions, kernel.SockMsg, sockMsgStorage} {
		switch err := f.Probe(); {
		case kernel.Missing(err):
			e.noHeaders = fmt.Errorf("this kernel has no %s, which Linux has since %s", f.Name, f.Since)
			return nil
		case err != nil:
			return fmt.Errorf("try %s: %w", f.Name, err)
		}
	}
	return nil
}

// attachHeaders loads the programs that write headers and attaches them, unless they
// are.
func (e *Engine) attachHeaders() error {
	if e.noHeaders != nil {
		return e.noHeaders
	}
	if slices.ContainsFunc(e.hooks, func(h *hook) bool { return h.program == meshProgMeshHeader }) {
		return nil
	}
	if e.unsent == nil { // not of an attempt that failed
		coll, err := e.loadHeaders()
		if err != nil {
			return err
		}
		maps.Copy(e.coll.Programs, coll.Programs)
		e.unsent = coll.Maps[meshMapUnsent]
		e.closers = append(e.closers, closer(func() error { return e.unsent.Close() }))
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: e.unsent.FD(), Program: e.coll.Programs[meshProgMeshFirstBytes], Attach: ebpf.AttachSkMsgVerdict,
	}); err != nil {
		return fmt.Errorf("attach %s: %w", meshProgMeshFirstBytes, explain(err))
	}
	return e.attachOne(meshProgMeshHeader, ebpf.AttachCGroupSockOps)
}

func (e *Engine) loadHeaders() (*ebpf.Collection, error) {
	m := e.headers.Maps[meshMapUnsent]
	m.MaxEntries = e.limits.Unsent
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	for name, m := range e.coll.Maps {
		if !ofOneLoad(name) {
			options.MapReplacements[name] = m
		}
	}
	if e.pins != nil {
		if err := e.pins.sameSize(meshMapUnsent, e.limits.Unsent); err != nil {
			return nil, err
		}
		m.Pinning = ebpf.PinByName
		options.Maps.PinPath = e.pins.dir
	}
	coll, err := ebpf.NewCollectionWithOptions(e.headers, options)
	if err != nil {
		return nil, fmt.Errorf("load programs that write headers: %w", explain(err))
	}
	defer coll.Close()
	kept := &ebpf.Collection{
		Maps:     map[string]*ebpf.Map{meshMapUnsent: coll.DetachMap(meshMapUnsent)},
		Programs: map[string]*ebpf.Program{},
	}
	for name := range e.headers.Programs {
		kept.Programs[name] = coll.DetachProgram(name)
	}
	return kept, nil
}

// adoptHeaders takes over what an earlier process has attached.
func (e *Engine) adoptHeaders() error {
	if e.pins == nil || e.pins.fresh || e.noHeaders != nil {
		return nil
	}
	if exists(e.pins.link(meshProgMeshHeader)) || e.state.leads(isHeaded) {
		return e.attachHeaders()
	}
	return nil
}

func withUnsent(all map[string]*ebpf.Map, unsent *ebpf.Map) map[string]*ebpf.Map {
	all = maps.Clone(all)
	all[meshMapUnsent] = unsent
	return all
}

package trace

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/internal/kernel"
)

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -type sighting -type trace_kind -type trace_shape -type trace_link -type trace_calls trace ../../bpf/probe/trace.bpf.c -- -I../../bpf/include

// registers are the places of the registers of the first four arguments and of the
// returned value in struct pt_regs (arch/*/include/asm/ptrace.h), in bytes, by
// architecture.
var registers = map[string]struct {
	args [4]uint32
	ret  uint32
}{
	"amd64": {[4]uint32{112, 104, 96, 88}, 80}, // di, si, dx, cx; ax
	"arm64": {[4]uint32{0, 8, 16, 24}, 0},      // regs[0] to regs[3]; regs[0]
}

// objects owns the maps that all programs share, and loads programs one at a time.
type objects struct {
	spec *ebpf.CollectionSpec
	maps traceMaps
}

// newObjects makes the maps, with room for the counts of some functions.
func newObjects(functions int) (*objects, error) {
	spec, err := loadTrace()
	if err != nil {
		return nil, fmt.Errorf("read the tracing programs: %w", err)
	}
	spec.Maps[traceMapTraceCounts].MaxEntries = uint32(max(functions, 1))
	if r, known := registers[runtime.GOARCH]; known {
		if err := spec.Variables[traceVarCfgArgs].Set(r.args); err != nil {
			return nil, fmt.Errorf("set %s: %w", traceVarCfgArgs, err)
		}
		if err := spec.Variables[traceVarCfgRet].Set(r.ret); err != nil {
			return nil, fmt.Errorf("set %s: %w", traceVarCfgRet, err)
		}
	}
	o := &objects{spec: spec}
	if err := spec.LoadAndAssign(&o.maps, nil); err != nil {
		return nil, fmt.Errorf("make the maps: %w", err)
	}
	return o, nil
}

// program loads one program; at names another function for it, where not empty.
// The caller closes it.
func (o *objects) program(name, at string) (*ebpf.Program, error) {
	spec := o.spec.Copy()
	for other := range o.spec.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	if at != "" {
		spec.Programs[name].AttachTo = at
	}
	shared := map[string]*ebpf.Map{
		traceMapLinks:       o.maps.Links,
		traceMapTraceCounts: o.maps.TraceCounts,
		traceMapTraceEvents: o.maps.TraceEvents,
		traceMapTraceFull:   o.maps.TraceFull,
		traceMapWatched:     o.maps.Watched,
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: shared, Cache: kernel.Types(),
	})
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", name, err)
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

func (o *objects) Close() error { return o.maps.Close() }

// Trials loads each program alone and attaches it for a moment, where nobody is
// watched. Nothing stays.
func Trials() ([]kernel.Trial, error) {
	o, err := newObjects(1)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	trials, err := kernel.TryPrograms(o.spec)
	if err != nil {
		return nil, fmt.Errorf("try the tracing programs: %w", err)
	}
	return trials, nil
}

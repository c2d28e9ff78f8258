package l4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/duomesh/duomesh/internal/kernel"
)

// tryHandoff finds whether this kernel can hand connections off.
func (e *Engine) tryHandoff() error {
	for _, f := range []kernel.Feature{kernel.CgroupSockOps, kernel.CgroupSockopt, kernel.HeaderOptions, sockOpsCookie} {
		switch err := f.Probe(); {
		case kernel.Missing(err):
			e.noHandoff = fmt.Errorf("this kernel has no %s, which Linux has since %s", f.Name, f.Since)
			e.log.Warn("connections cannot be handed off to a waypoint: services that have one are refused", "err", e.noHandoff)
			return nil
		case err != nil:
			return fmt.Errorf("try %s: %w", f.Name, err)
		}
	}
	return nil
}

// sockOpsCookie lets the program of a connection know its network namespace.
var sockOpsCookie = kernel.Feature{Name: "netns cookie in sockops", Since: "5.15", Probe: func() error {
	return kernel.HaveHelper(ebpf.SockOps, asm.FnGetNetnsCookie)
}}

// attachSockOps attaches the program of both ends of the hand-off. It is done when
// the first service with a waypoint, or the first waypoint of this node, comes, and
// stays until Remove: it costs each connection of the node something.
func (e *Engine) attachSockOps() error {
	if e.noHandoff != nil {
		return e.noHandoff
	}
	for _, h := range e.hooks {
		if h.program == meshProgMeshSockops {
			return nil
		}
	}
	return e.attachOne(meshProgMeshSockops, ebpf.AttachCGroupSockOps)
}

// loadPreparer loads the iterator for listeners that are older than the engine's
// entry for their waypoint, where the kernel can.
func (e *Engine) loadPreparer(program *ebpf.ProgramSpec, spec *ebpf.CollectionSpec) error {
	if e.noHandoff != nil {
		return nil
	}
	var err error
	if err = kernel.BTF.Probe(); err == nil {
		e.preparer, err = e.loadIter(meshProgMeshPrepare, program, spec)
	}
	if err != nil {
		e.noPreparer = err
		e.log.Info("a waypoint's listener must be younger than its entry in the engine: this kernel cannot prepare older ones",
			"err", kernel.Innermost(err))
	}
	return nil
}

// errUnprepared says that a waypoint's listener is older than its entry, on a kernel that
// cannot prepare it.
var errUnprepared = errors.New("older than this and cannot be prepared on this kernel")

func unprepared(port uint16, why string) error {
	return fmt.Errorf("its listener at port %d is %w (%s): start it anew", port, errUnprepared, why)
}

// prepareListeners has a waypoint's listeners that are there already keep SYNs. It
// returns how many there were. An error says that one cannot be prepared: what it
// accepts has no answer.
func (e *Engine) prepareListeners(netns *os.File) (int, error) {
	var r io.ReadCloser
	if err := kernel.InNetns(netns, func() (err error) {
		r, err = e.preparer.Open()
		return err
	}); err != nil {
		return 0, fmt.Errorf("look for its listeners: %w", explain(err))
	}
	defer r.Close()
	for n := 0; ; n++ {
		var p meshPrepared
		err := binary.Read(r, binary.LittleEndian, &p)
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, fmt.Errorf("look for its listeners: %w", err)
		case p.SaveSyn != 0 || p.Callbacks != 0:
			return n, unprepared(p.Port, fmt.Sprintf("%d, %d", p.SaveSyn, p.Callbacks))
		}
	}
}

// noOlderListener fails where a waypoint listens already and nobody can prepare that.
func (e *Engine) noOlderListener(netns *os.File, port uint16) error {
	there := false
	if err := kernel.InNetns(netns, func() (err error) {
		there, err = listens(port)
		return err
	}); err != nil {
		return fmt.Errorf("look for its listeners: %w", err)
	}
	if there {
		return unprepared(port, kernel.Innermost(e.noPreparer))
	}
	return nil
}

// listens reports whether a TCP port of this thread's network namespace is listened on.
func listens(port uint16) (bool, error) {
	end := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(data)) {
			// "sl local_address rem_address st": proc(5); 0A is LISTEN.
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], end) {
				return true, nil
			}
		}
	}
	return false, nil
}

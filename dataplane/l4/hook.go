package l4

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hook is one program on one attach point of the node's cgroup.
type hook struct {
	program string
	attach  ebpf.AttachType
	link    link.Link
	id      ebpf.ProgramID
}

// programs lists what is attached, in an order in which a half-done attachment
// does no harm: what answers for and frees a kept address comes before what
// keeps it, and what keeps one for datagrams before what sends them elsewhere.
var programs = []struct {
	name     string
	attach   ebpf.AttachType
	keepPeer bool
}{
	{meshProgMeshSockRelease, ebpf.AttachCgroupInetSockRelease, true},
	{meshProgMeshGetpeername4, ebpf.AttachCgroupInet4GetPeername, true},
	{meshProgMeshGetpeername6, ebpf.AttachCgroupInet6GetPeername, true},
	{meshProgMeshRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg, false},
	{meshProgMeshRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg, false},
	{meshProgMeshSendmsg4, ebpf.AttachCGroupUDP4Sendmsg, false},
	{meshProgMeshSendmsg6, ebpf.AttachCGroupUDP6Sendmsg, false},
	{meshProgMeshConnect4, ebpf.AttachCGroupInet4Connect, false},
	{meshProgMeshConnect6, ebpf.AttachCGroupInet6Connect, false},
}

func (e *Engine) attach(o Options) error {
	for _, p := range programs {
		if p.keepPeer && o.HidePeer {
			continue
		}
		if err := e.attachOne(p.name, p.attach); err != nil {
			return err
		}
	}
	if e.pins != nil && o.HidePeer {
		return e.dropPeerHooks()
	}
	return nil
}

func (e *Engine) attachOne(name string, attach ebpf.AttachType) error {
	prog := e.coll.Programs[name]
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("program %s: %w", name, err)
	}
	h := &hook{program: name, attach: attach}
	h.id, _ = info.ID()
	if h.link, err = e.takeOver(h, prog); err != nil {
		return err
	}
	if h.link == nil {
		if h.link, err = e.attachNew(h, prog); err != nil {
			return err
		}
	}
	e.hooks = append(e.hooks, h)
	e.closers = append(e.closers, h.link)
	return e.alone(h)
}

// takeOver puts prog in the place of an earlier process's program, in one step.
// It returns nil where no link is pinned.
func (e *Engine) takeOver(h *hook, prog *ebpf.Program) (_ link.Link, err error) {
	if e.pins == nil {
		return nil, nil
	}
	path := e.pins.link(h.program)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, PinError{Path: path, Reason: err.Error()}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if err := attachedTo(l, e.host.Cgroup); err != nil {
		return nil, PinError{Path: path, Reason: err.Error()}
	}
	if err := l.Update(prog); err != nil {
		return nil, fmt.Errorf("replace program in link %s: %w", path, explain(err))
	}
	return l, nil
}

func (e *Engine) attachNew(h *hook, prog *ebpf.Program) (link.Link, error) {
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(e.host.Cgroup.Fd()), Program: prog, Attach: h.attach,
	})
	if err != nil {
		return nil, fmt.Errorf("attach %s to cgroup %s: %w", h.program, e.host.Cgroup.Name(), explain(err))
	}
	if e.pins != nil {
		if err := l.Pin(e.pins.link(h.program)); err != nil {
			return nil, errors.Join(fmt.Errorf("pin link of %s: %w", h.program, err), l.Close())
		}
	}
	return l, nil
}

// isAttached is true while the node's cgroup itself has h's program.
func (e *Engine) isAttached(h *hook) (bool, error) {
	ids, err := attached(e.host.Cgroup, h.attach, 0)
	return slices.Contains(ids, h.id), err
}

// attachedTo fails unless a link is attached to this very cgroup.
func attachedTo(l link.Link, cgroup *os.File) error {
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link: %w", err)
	}
	id, err := cgroupID(cgroup)
	if err != nil {
		return err
	}
	c := info.Cgroup()
	if c == nil {
		return errors.New("not a link to a cgroup")
	}
	if c.CgroupId != id {
		return fmt.Errorf("attached to cgroup %d, not to %s (%d)", c.CgroupId, cgroup.Name(), id)
	}
	return nil
}

// alone fails when the cgroup itself has a second program of this name: two
// engines on one node would each redirect what the other already has.
func (e *Engine) alone(h *hook) error {
	others, err := attached(e.host.Cgroup, h.attach, 0)
	if err != nil {
		return err
	}
	for _, id := range others {
		name, err := programName(id)
		if err != nil {
			return err
		}
		if id != h.id && name == shortName(h.program) {
			return fmt.Errorf("another engine is attached to cgroup %s: program %s, id %d",
				e.host.Cgroup.Name(), h.program, id)
		}
	}
	return nil
}

// dropPeerHooks ends the links of an earlier process that kept asked addresses.
func (e *Engine) dropPeerHooks() error {
	for _, p := range programs {
		if !p.keepPeer {
			continue
		}
		l, err := link.LoadPinnedLink(e.pins.link(p.name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open pinned link of %s: %w", p.name, err)
		}
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return fmt.Errorf("remove link of %s: %w", p.name, err)
		}
	}
	return nil
}

func (h *hook) unpin() error {
	if err := h.link.Unpin(); err != nil {
		return fmt.Errorf("unpin link of %s: %w", h.program, err)
	}
	return nil
}

// attached lists the programs on an attach point of a cgroup; with
// BPF_F_QUERY_EFFECTIVE those of its ancestors too, in the order in which they run.
func attached(cgroup *os.File, attach ebpf.AttachType, flags uint32) ([]ebpf.ProgramID, error) {
	result, err := link.QueryPrograms(link.QueryOptions{
		Target: int(cgroup.Fd()), Attach: attach, QueryFlags: flags,
	})
	if err != nil {
		return nil, fmt.Errorf("list programs of cgroup %s: %w", cgroup.Name(), explain(err))
	}
	var ids []ebpf.ProgramID
	for _, p := range result.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// programName returns "" for a program that has gone.
func programName(id ebpf.ProgramID) (string, error) {
	prog, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open program %d: %w", id, explain(err))
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return "", fmt.Errorf("read program %d: %w", id, err)
	}
	return info.Name, nil
}

// shortName is what the kernel keeps of a program's name.
func shortName(name string) string { return name[:min(len(name), unix.BPF_OBJ_NAME_LEN-1)] }

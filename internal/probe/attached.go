package probe

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// attachment is something attached to a hook that others can take away: whoever
// may call bpf(2) can detach a link, and tc(8) deletes filters.
type attachment interface {
	// gone lists what is no longer attached, by hook.
	gone() ([]string, error)
}

// gone lists what is no longer attached of all that c holds.
func (c closers) gone() ([]string, error) {
	var all []string
	for _, x := range c {
		a, ok := x.(attachment)
		if !ok {
			continue
		}
		hooks, err := a.gone()
		if err != nil {
			return nil, err
		}
		all = append(all, hooks...)
	}
	return all, nil
}

// held is a link to a hook of a cgroup or an interface.
type held struct {
	link.Link
	hook string
	prog *ebpf.Program
}

// Close detaches first: a child of this process has the descriptor too between its
// fork and its exec, and the program would run until then. Where the kernel cannot
// (before Linux 5.9) closing alone does it.
func (h held) Close() error {
	if err := h.Detach(); err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return errors.Join(fmt.Errorf("detach from %s: %w", h.hook, err), h.Link.Close())
	}
	return h.Link.Close()
}

func (h held) gone() ([]string, error) {
	info, err := h.Info()
	if err != nil {
		return nil, fmt.Errorf("state of the link at %s: %w", h.hook, err)
	}
	own, err := programID(h.prog)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Program != own:
		return []string{h.hook + " (the program was replaced)"}, nil
	case info.Cgroup() != nil && info.Cgroup().CgroupId != 0:
		return nil, nil
	case info.TCX() != nil && info.TCX().Ifindex != 0:
		return nil, nil
	}
	return []string{h.hook}, nil
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, fmt.Errorf("id of %s: %w", p, err)
	}
	id, _ := info.ID()
	return id, nil
}

// gone reports whether one of those who share the hooks has lost them.
func (u *cgroupUse) gone() ([]string, error) {
	u.set.mu.Lock()
	defer u.set.mu.Unlock()
	if u.done {
		return nil, nil
	}
	return u.set.held[u.id].links.gone()
}

func (f *filterLink) gone() ([]string, error) {
	var hooks []string
	on := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: f.ifindex}}
	for parent, own := range f.progs() {
		id, err := programID(own)
		if err != nil {
			return nil, err
		}
		filters, err := f.handle.FilterList(on, parent)
		if gone(err) != nil {
			return nil, fmt.Errorf("list filters of interface %d: %w", f.ifindex, err)
		}
		if !slices.ContainsFunc(filters, func(x netlink.Filter) bool {
			b, ok := x.(*netlink.BpfFilter)
			return ok && ebpf.ProgramID(b.Id) == id && b.ClassId == f.class
		}) {
			hooks = append(hooks, fmt.Sprintf("%s of interface %d", parentName(parent), f.ifindex))
		}
	}
	return hooks, nil
}

func (f *filterLink) progs() map[uint32]*ebpf.Program {
	return map[uint32]*ebpf.Program{
		netlink.HANDLE_MIN_INGRESS: f.wire.progs.Ingress, netlink.HANDLE_MIN_EGRESS: f.wire.progs.Egress,
	}
}

func parentName(parent uint32) string {
	if parent == netlink.HANDLE_MIN_INGRESS {
		return "the ingress filter"
	}
	return "the egress filter"
}

// notice remembers for good what others have detached of the judge: of a pod that
// is watched until now, what happens at that hook is no longer seen. p.change
// must be held.
func (p *Probe) notice(pod string, w *watched) error {
	hooks, err := w.links.gone()
	if err != nil {
		return fmt.Errorf("pod %s: %w", pod, err)
	}
	for _, hook := range hooks {
		if what := pod + ": " + hook; !slices.Contains(p.detached, what) {
			p.detached = append(p.detached, what)
		}
	}
	return nil
}

// noticed lists all that others have detached since the judge was opened.
func (p *Probe) noticed() ([]string, error) {
	p.change.Lock()
	defer p.change.Unlock()
	for pod, w := range p.pods {
		if err := p.notice(pod, w); err != nil {
			return nil, err
		}
	}
	slices.Sort(p.detached)
	return slices.Clone(p.detached), nil
}

var _ = []interface {
	io.Closer
	attachment
}{held{}, &cgroupUse{}, &filterLink{}, &closers{}}

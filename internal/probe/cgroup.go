package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroupHook is a program and where in a cgroup it belongs.
type cgroupHook struct {
	prog   *ebpf.Program
	attach ebpf.AttachType
}

// cgroupSet attaches hooks to the cgroups of targets, once each: targets may
// share one.
type cgroupSet struct {
	hooks []cgroupHook
	// late decides about programs that run before the hooks; nil: the order
	// does not matter.
	late func(*OrderError) error

	mu   sync.Mutex
	held map[uint64]*cgroupHold // by cgroup id, which is the inode
}

type cgroupHold struct {
	path  string
	users int
	links closers
}

func newCgroupSet(hooks []cgroupHook, late func(*OrderError) error) *cgroupSet {
	return &cgroupSet{hooks: hooks, late: late, held: map[uint64]*cgroupHold{}}
}

// OrderError says that other programs see a connect before the judge does, so
// that what the judge would call asked may be what they made of it.
type OrderError struct {
	// Cgroup is the path of the watched cgroup.
	Cgroup string
	// Before names the programs that run earlier, as "name (id)".
	Before []string
}

// Error implements error.
func (e *OrderError) Error() string {
	return fmt.Sprintf("cgroup %s: what applications ask for cannot be seen: these programs run before the observer: %s",
		e.Cgroup, strings.Join(e.Before, ", "))
}

// try attaches all hooks for a moment, to see whether the kernel takes them.
func (c *cgroupSet) try(t Target) error {
	dir, err := trialCgroup(t)
	if err != nil {
		return fmt.Errorf("open cgroup for a trial: %w", err)
	}
	defer dir.Close()
	links, err := c.link(dir)
	return errors.Join(err, links.Close())
}

func (c *cgroupSet) attach(t Target) (io.Closer, error) {
	if t.Cgroup == nil {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.Cgroup.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat cgroup %s: %w", t.Cgroup.Name(), err)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", t.Cgroup.Fd()))
	if err != nil {
		return nil, fmt.Errorf("path of cgroup %s: %w", t.Cgroup.Name(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	hold, ok := c.held[st.Ino]
	if !ok {
		hold, err = c.hold(t.Cgroup, path)
		if err != nil {
			return nil, err
		}
		c.held[st.Ino] = hold
	}
	hold.users++
	return &cgroupUse{set: c, id: st.Ino}, nil
}

func (c *cgroupSet) hold(dir *os.File, path string) (*cgroupHold, error) {
	for _, other := range c.held {
		if below(path, other.path) || below(other.path, path) {
			return nil, fmt.Errorf("cgroup %s and the watched %s are one below the other: a connect would be seen twice",
				path, other.path)
		}
	}
	hold := &cgroupHold{path: path}
	var err error
	if hold.links, err = c.link(dir); err != nil {
		return nil, errors.Join(err, hold.links.Close())
	}
	if c.late == nil {
		return hold, nil
	}
	if err := c.checkOrder(dir, path); err != nil {
		return nil, errors.Join(err, hold.links.Close())
	}
	return hold, nil
}

// below reports whether path is in a directory under dir.
func below(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// link attaches beside whatever is there; nothing is replaced.
func (c *cgroupSet) link(dir *os.File) (closers, error) {
	var links closers
	for _, h := range c.hooks {
		l, err := attachCgroup(dir, h)
		if err != nil {
			return links, fmt.Errorf("attach %s to cgroup %s: %w", h.attach, dir.Name(), err)
		}
		links = append(links, held{Link: l, hook: h.attach.String() + " of its cgroup", prog: h.prog})
	}
	return links, nil
}

// attachCgroup attaches a program to an open directory; [link.AttachCgroup] takes
// only a path. The second descriptor knows its kind of link, the first does not.
func attachCgroup(dir *os.File, h cgroupHook) (link.Link, error) {
	raw, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(dir.Fd()), Program: h.prog, Attach: h.attach,
	})
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	info, err := raw.Info()
	if err != nil {
		return nil, err
	}
	return link.NewFromID(info.ID)
}

// checkOrder asks the kernel in which order it runs the programs of a cgroup,
// its own and its ancestors' (BPF_F_QUERY_EFFECTIVE), and asks late about foreign
// ones before ours.
func (c *cgroupSet) checkOrder(dir *os.File, path string) error {
	for _, h := range c.hooks {
		id, err := programID(h.prog)
		if err != nil {
			return err
		}
		effective, err := link.QueryPrograms(link.QueryOptions{
			Target: int(dir.Fd()), Attach: h.attach, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
		})
		if err != nil {
			return fmt.Errorf("list programs %s of cgroup %s: %w", h.attach, path, err)
		}
		before, found := programsBefore(effective.Programs, id)
		if !found {
			return fmt.Errorf("cgroup %s: the kernel does not list the attached %s as effective", path, h.attach)
		}
		if len(before) > 0 {
			if err := c.late(&OrderError{Cgroup: path, Before: before}); err != nil {
				return err
			}
		}
	}
	return nil
}

func programsBefore(progs []link.AttachedProgram, id ebpf.ProgramID) (before []string, found bool) {
	for _, p := range progs {
		if p.ID == id {
			return before, true
		}
		before = append(before, programName(p.ID))
	}
	return before, false
}

func programName(id ebpf.ProgramID) string {
	name := "unknown"
	if p, err := ebpf.NewProgramFromID(id); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil {
			name = info.Name
		}
	}
	return fmt.Sprintf("%s (%d)", name, id)
}

// cgroupUse is one target's share of a hold.
type cgroupUse struct {
	set  *cgroupSet
	id   uint64
	done bool
}

func (u *cgroupUse) Close() error {
	u.set.mu.Lock()
	defer u.set.mu.Unlock()
	if u.done {
		return nil
	}
	u.done = true
	hold := u.set.held[u.id]
	if hold.users--; hold.users > 0 {
		return nil
	}
	delete(u.set.held, u.id)
	return hold.links.Close()
}

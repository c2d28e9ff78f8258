package probe

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// cgroupAsked sees what applications ask for by observe-only programs on the
// cgroup of each target: the kernel's own copy of the address, before any program
// of an ancestor has changed it.
type cgroupAsked struct {
	udp bool
	// late decides about programs that see a connect earlier.
	late  func(*OrderError) error
	progs struct {
		Connect4 *ebpf.Program `ebpf:"asked_connect4"`
		Connect6 *ebpf.Program `ebpf:"asked_connect6"`
		Sendmsg4 *ebpf.Program `ebpf:"asked_sendmsg4"`
		Sendmsg6 *ebpf.Program `ebpf:"asked_sendmsg6"`
	}
	cgroups *cgroupSet
}

func (*cgroupAsked) Name() string { return "cgroup/connect" }

func (c *cgroupAsked) Open(o *objects, t Target) error {
	if err := o.load(&c.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	hooks := []cgroupHook{
		{c.progs.Connect4, ebpf.AttachCGroupInet4Connect},
		{c.progs.Connect6, ebpf.AttachCGroupInet6Connect},
	}
	if c.udp {
		hooks = append(hooks,
			cgroupHook{c.progs.Sendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
			cgroupHook{c.progs.Sendmsg6, ebpf.AttachCGroupUDP6Sendmsg})
	}
	c.cgroups = newCgroupSet(hooks, c.late)
	if err := c.cgroups.try(t); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

func (c *cgroupAsked) Watch(t Target) (io.Closer, error) { return c.cgroups.attach(t) }

func (c *cgroupAsked) programs() []*ebpf.Program {
	return []*ebpf.Program{c.progs.Connect4, c.progs.Connect6, c.progs.Sendmsg4, c.progs.Sendmsg6}
}

func (c *cgroupAsked) Missed() (uint64, error) { return recursionMisses(c.programs()...) }

func (c *cgroupAsked) Close() error { return closePrograms(c.programs()) }

// cgroupRelease sees sockets without a connection go away.
type cgroupRelease struct {
	progs struct {
		Release *ebpf.Program `ebpf:"on_sock_release"`
	}
	cgroups *cgroupSet
}

func (*cgroupRelease) Name() string { return "cgroup/sock_release" }

func (c *cgroupRelease) Open(o *objects, t Target) error {
	if err := o.load(&c.progs); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	c.cgroups = newCgroupSet([]cgroupHook{{c.progs.Release, ebpf.AttachCgroupInetSockRelease}}, nil)
	if err := c.cgroups.try(t); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

func (c *cgroupRelease) Watch(t Target) (io.Closer, error) { return c.cgroups.attach(t) }

func (c *cgroupRelease) Missed() (uint64, error) { return recursionMisses(c.progs.Release) }

func (c *cgroupRelease) Close() error { return c.progs.Release.Close() }

// syscallAsked sees the arguments of connect(2) on the whole machine. It is
// weaker: the memory is the application's and may change after it was read, sends
// (UDP, MSG_FASTOPEN) and io_uring do not pass, and a socket may have no cookie yet.
type syscallAsked struct {
	progs struct {
		Enter *ebpf.Program `ebpf:"on_enter_connect"`
	}
	link io.Closer
}

func (*syscallAsked) Name() string { return "tracepoint/sys_enter_connect" }

func (s *syscallAsked) Open(o *objects, _ Target) (err error) {
	if err := o.load(&s.progs); err != nil {
		return fmt.Errorf("load program: %w", err)
	}
	s.link, err = kernel.AttachTracepoint("syscalls", "sys_enter_connect", s.progs.Enter)
	if err != nil {
		return errors.Join(err, s.progs.Enter.Close())
	}
	return nil
}

func (*syscallAsked) Watch(Target) (io.Closer, error) { return nil, nil }

func (s *syscallAsked) Missed() (uint64, error) { return recursionMisses(s.progs.Enter) }

// Uncounted: a tracepoint's program before Linux 6.7.
func (*syscallAsked) Uncounted() bool { return !missesCounted() }

func (s *syscallAsked) Close() error { return errors.Join(s.link.Close(), s.progs.Enter.Close()) }

func closePrograms(progs []*ebpf.Program) error {
	var errs []error
	for _, p := range progs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// trialCgroup is the cgroup of t, or the root where it has none. The caller
// closes it.
func trialCgroup(t Target) (*os.File, error) {
	if t.Cgroup != nil {
		fd, err := unix.FcntlInt(t.Cgroup.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("duplicate descriptor of cgroup %s: %w", t.Cgroup.Name(), err)
		}
		return os.NewFile(uintptr(fd), t.Cgroup.Name()), nil
	}
	root, err := kernel.Cgroup2()
	if err != nil {
		return nil, err
	}
	return os.Open(root)
}

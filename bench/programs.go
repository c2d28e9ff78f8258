package bench

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
)

// hooks are the places of a cgroup where a program can take part in a connection,
// and in the lookups by UDP that come before one.
var hooks = []ebpf.AttachType{
	ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress,
	ebpf.AttachCGroupInetSockCreate, ebpf.AttachCgroupInetSockRelease,
	ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind,
	ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind,
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCGroupSockOps, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
}

// programs are the mesh's BPF programs that run for some pods, as the kernel
// names them; the mesh is not asked.
type programs struct {
	all map[ebpf.ProgramID]*ebpf.Program
}

// openPrograms finds the programs that are in effect in the cgroups, without
// those that are in effect on the whole machine. The caller closes them.
func openPrograms(cgroups ...*os.File) (_ *programs, err error) {
	p := &programs{all: map[ebpf.ProgramID]*ebpf.Program{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	path, err := kernel.Cgroup2()
	if err != nil {
		return nil, err
	}
	root, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open root cgroup: %w", err)
	}
	defer root.Close()
	machine, err := effective(root)
	if err != nil {
		return nil, err
	}
	for _, c := range cgroups {
		mine, err := effective(c)
		if err != nil {
			return nil, err
		}
		for id := range mine {
			if machine[id] || p.all[id] != nil {
				continue
			}
			if p.all[id], err = ebpf.NewProgramFromID(id); err != nil {
				delete(p.all, id)
				return nil, fmt.Errorf("open BPF program %d: %w", id, err)
			}
		}
	}
	return p, nil
}

// queryEffective is BPF_F_QUERY_EFFECTIVE of the kernel's bpf.h: with what is
// inherited from cgroups above.
const queryEffective = 1 << 0

// effective lists the programs that run for a process of a cgroup.
func effective(cgroup *os.File) (map[ebpf.ProgramID]bool, error) {
	ids := map[ebpf.ProgramID]bool{}
	for _, hook := range hooks {
		r, err := link.QueryPrograms(link.QueryOptions{
			Target: int(cgroup.Fd()), Attach: hook, QueryFlags: queryEffective,
		})
		if errors.Is(err, unix.EINVAL) || errors.Is(err, ebpf.ErrNotSupported) {
			continue // this kernel does not have the hook
		}
		if err != nil {
			return nil, fmt.Errorf("list BPF programs of cgroup %s at %s: %w", cgroup.Name(), hook, err)
		}
		for _, p := range r.Programs {
			ids[p.ID] = true
		}
	}
	return ids, nil
}

// work sums what the kernel counted of all programs.
func (p *programs) work() (result.Programs, error) {
	var sum result.Programs
	for id, prog := range p.all {
		s, err := prog.Stats()
		if err != nil {
			return sum, fmt.Errorf("statistics of BPF program %d: %w", id, err)
		}
		sum.Runs += s.RunCount
		sum.Time += s.Runtime
	}
	return sum, nil
}

func (p *programs) close() error {
	var errs []error
	for _, prog := range p.all {
		errs = append(errs, prog.Close())
	}
	return errors.Join(errs...)
}

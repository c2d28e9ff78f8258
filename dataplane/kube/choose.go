package kube

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resident is a process of a pod, in a network namespace that is not the node's.
type resident struct {
	pid   string
	inode uint64
	start uint64 // in ticks of the clock since the machine's start
}

// choose opens the pod's network namespace. A process of the pod may be in another one
// that it has made, and come first in any list; so the namespace is told by whose it
// is, and by age:
//
//   - the one that the agent has is the pod's as long as a process of the pod is in it;
//   - one that belongs to a user namespace made inside the pod never is: nobody needs a
//     privilege to make those;
//   - of the others the oldest process has the pod's: it is the sandbox's own.
//
// members is asked again once a process is held, so that one that has ended and left
// its number to another is not taken for the pod's.
func (p Places) choose(f Found, w Want, members func() ([]string, error)) (Found, error) {
	// Not self: that is the first thread, which InNetns may have used up.
	own, err := inode(filepath.Join(p.Proc, "thread-self/ns/net"))
	if err != nil {
		return f, fmt.Errorf("the agent's network namespace: %w", err)
	}
	users, err := inode(filepath.Join(p.Proc, "thread-self/ns/user"))
	if err != nil {
		return f, fmt.Errorf("the agent's user namespace: %w", err)
	}
	pids, err := members()
	if err != nil {
		return f, fmt.Errorf("processes of pod UID %s: %w", w.UID, err)
	}
	ns, r := p.pick(p.residents(pids, own, w.Netns), w, users, members)
	if ns == nil {
		return f, fmt.Errorf("pod UID %s: %w", w.UID, errNoProcess)
	}
	f.Netns, f.Inode = ns, r.inode
	f.Started, err = since(r.start)
	if err != nil {
		return f, errors.Join(err, ns.Close())
	}
	return f, nil
}

// pick opens the namespace of the first resident that is in the pod's, nil when none is.
func (p Places) pick(all []resident, w Want, users uint64, members func() ([]string, error)) (found *os.File, of resident) {
	looked := map[uint64]bool{}
	for _, r := range all {
		if looked[r.inode] {
			continue
		}
		ns, n := p.netns(r.pid, members)
		if ns == nil {
			continue
		}
		if n != r.inode { // it has moved meanwhile
			ns.Close()
			continue
		}
		looked[n] = true
		switch deep, err := depth(ns, users); {
		case n == w.Netns, err == nil && deep == 0:
			if found != nil {
				found.Close()
			}
			return ns, r
		case err == nil && deep == 1 && w.Users && found == nil:
			found, of = ns, r // unless there is one that belongs to the machine
		default:
			ns.Close()
		}
	}
	return found, of
}

// residents are the processes that are not in the node's own namespace: those in the
// wanted one first, then the older before the younger.
func (p Places) residents(pids []string, own, wanted uint64) []resident {
	var all []resident
	for _, pid := range pids {
		n, err := inode(filepath.Join(p.Proc, pid, "ns/net"))
		if err != nil || n == own { // it has ended; the agent is on the host's network
			continue
		}
		if start, err := p.started(pid); err == nil {
			all = append(all, resident{pid, n, start})
		}
	}
	slices.SortFunc(all, func(a, b resident) int {
		if a.inode != b.inode && (a.inode == wanted || b.inode == wanted) {
			if a.inode == wanted {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(len(a.pid), len(b.pid)), cmp.Compare(a.pid, b.pid))
	})
	return all
}

// started is when a process was, field 22 of /proc/PID/stat; its name may have blanks and
// parentheses in it.
func (p Places) started(pid string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(p.Proc, pid, "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const start = 22 - 3 // the first is field 3
	if len(fields) <= start {
		return 0, fmt.Errorf("/proc/%s/stat has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

// ticks is how many of them are a second in what /proc says: USER_HZ, the same everywhere.
const ticks = 100

// since is the time of a moment that is told from the machine's start.
func since(start uint64) (time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}, fmt.Errorf("read the clock: %w", err)
	}
	return time.Now().Add(time.Duration(start)*time.Second/ticks - time.Duration(up.Nano())), nil
}

// depth is how many user namespaces lie between the agent's, of this inode, and the one
// that a network namespace belongs to (ioctl_ns(2)). Of one that does not lie below
// the agent's the kernel says nothing.
func depth(ns *os.File, users uint64) (int, error) {
	fd, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	for n := 0; ; n++ {
		if err != nil {
			return 0, fmt.Errorf("the user namespace of %s: %w", ns.Name(), err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Ino == users {
			return n, errors.Join(err, unix.Close(fd))
		}
		parent, perr := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
		unix.Close(fd)
		fd, err = parent, perr
	}
}

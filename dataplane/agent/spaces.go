package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// cgroupID is the inode of a cgroup's directory. The kernel gives none twice
// (kernfs_new_node), also not to a directory of the same path.
type cgroupID uint64

func idOf(dir *os.File) (cgroupID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", dir.Name(), err)
	}
	return cgroupID(st.Ino), nil
}

// at reports whether the cgroup is still at a path.
func (c cgroupID) at(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && cgroupID(st.Ino) == c
}

// netnsInode returns the inode of a network namespace, and refuses descriptors
// of anything else (ioctl_ns(2), NS_GET_NSTYPE).
func netnsInode(ns *os.File) (uint64, error) {
	kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return 0, fmt.Errorf("the descriptor %s is not a network namespace", ns.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return 0, fmt.Errorf("network namespace %s: %w", ns.Name(), err)
	}
	return st.Ino, nil
}

func netnsOf(path string) (uint64, error) {
	ns, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	return netnsInode(ns)
}

// errNobody says that no process of a pod is where it should be.
var errNobody = errors.New("no process of its cgroup is in its network namespace")

// netnsOfCookie opens the namespace of a cookie through a process at or below a
// cgroup, errNobody when none is in it. The caller closes it. Containers may end
// meanwhile.
func netnsOfCookie(cgroup string, cookie uint64) (*os.File, error) {
	var found *os.File
	err := filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		procs, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, pid := range strings.Fields(string(procs)) {
			if found = openNetns(pid, cookie); found != nil {
				return fs.SkipAll
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for a process in cgroup %s: %w", cgroup, err)
	}
	if found == nil {
		return nil, errNobody
	}
	return found, nil
}

// openNetns returns the namespace of a process, nil when it is another one or
// the process has ended.
func openNetns(pid string, cookie uint64) *os.File {
	ns, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return nil
	}
	if have, err := kernel.NetnsCookie(ns); err != nil || have != cookie {
		ns.Close()
		return nil
	}
	return ns
}

package l4

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

func isCgroup2(dir *os.File) error {
	if dir == nil {
		return errors.New("no cgroup was given")
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("cgroup %s: %w", dir.Name(), err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	mount, err := kernel.Cgroup2()
	if err != nil {
		return fmt.Errorf("cgroup %s is not in a cgroup v2 hierarchy: %w", dir.Name(), err)
	}
	return fmt.Errorf("cgroup %s is not in a cgroup v2 hierarchy; this machine has one at %s", dir.Name(), mount)
}

// cgroupID is the number by which links name a cgroup: its inode's.
func cgroupID(dir *os.File) (uint64, error) {
	st, err := stat(int(dir.Fd()), dir.Name())
	return st.Ino, err
}

func stat(fd int, name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return st, fmt.Errorf("cgroup %s: %w", name, err)
	}
	return st, nil
}

// below reports whether dir is root or lies below it, by walking up: paths
// differ between mounts, inodes do not.
func below(dir, root *os.File) (bool, error) {
	want, err := stat(int(root.Fd()), root.Name())
	if err != nil {
		return false, err
	}
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("cgroup %s: %w", dir.Name(), err)
	}
	for {
		at, err := stat(fd, dir.Name())
		if err != nil || at.Dev != want.Dev || at.Ino == want.Ino {
			unix.Close(fd)
			return err == nil && at.Dev == want.Dev, err
		}
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return false, fmt.Errorf("parent of cgroup %s: %w", dir.Name(), err)
		}
		if fd = up; sameDir(at, fd) {
			unix.Close(fd)
			return false, nil
		}
	}
}

// sameDir is set at the root of all mounts, whose parent it is itself.
func sameDir(st unix.Stat_t, fd int) bool {
	var up unix.Stat_t
	return unix.Fstat(fd, &up) == nil && up.Dev == st.Dev && up.Ino == st.Ino
}

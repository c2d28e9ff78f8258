package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup2 is returned where no cgroup v2 hierarchy is mounted.
var ErrNoCgroup2 = errors.New("no cgroup2 mount in /proc/self/mountinfo: mount one with `mount -t cgroup2 none DIR`")

// Cgroup2 returns the mount point of the cgroup v2 hierarchy, wherever the
// machine has it: on hybrid hosts it is not /sys/fs/cgroup.
func Cgroup2() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	defer f.Close()
	return mountOf(f, "cgroup2", ErrNoCgroup2)
}

// IsCgroup2 reports whether an open directory is of cgroup v2.
func IsCgroup2(dir *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(dir.Fd()), &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// HostCgroup2 is Cgroup2 of the machine for a process in a container that shares the
// machine's process numbers: of the first process, through its root directory. The
// hierarchy in which the container stands is no more than a part of it.
func HostCgroup2() (string, error) { return hostCgroup2("/proc/1") }

func hostCgroup2(first string) (string, error) {
	f, err := os.Open(first + "/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the host's cgroup2: %w", err)
	}
	defer f.Close()
	// Seen from a cgroup namespace below, the root of the hierarchy is "/../..".
	top := func(root string) bool { return strings.Trim(root, "./") == "" }
	mount, err := mountWith(f, "cgroup2", top, ErrNoCgroup2)
	if err != nil {
		return "", err
	}
	return first + "/root" + mount, nil
}

// mountOf returns the first mount point of a file system type whose root is the
// whole file system. The format is proc_pid_mountinfo(5).
func mountOf(mountinfo io.Reader, fstype string, missing error) (string, error) {
	return mountWith(mountinfo, fstype, func(root string) bool { return root == "/" }, missing)
}

func mountWith(mountinfo io.Reader, fstype string, whole func(root string) bool, missing error) (string, error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		if !ok {
			continue
		}
		mount, fs := strings.Fields(left), strings.Fields(right)
		if len(mount) >= 5 && len(fs) >= 1 && fs[0] == fstype && whole(mount[3]) {
			return unescape(mount[4]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read mountinfo: %w", err)
	}
	return "", missing
}

// unescape undoes the octal escapes of mountinfo for space, tab and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(s)
}

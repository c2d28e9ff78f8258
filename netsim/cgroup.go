package netsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the name of every cluster's directory in the cgroup2 root.
const cgroupPrefix = "duomesh-"

// ownProcesses is the leaf for a node's own processes; no pod can have the name.
const ownProcesses = "_node"

// cgroupOf returns the cgroup directory of a cluster.
func cgroupOf(id string) (string, error) {
	root, err := kernel.Cgroup2()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, cgroupPrefix+id), nil
}

// makeCgroup makes a cgroup directory and opens it; the caller closes it.
func makeCgroup(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return f, nil
}

// removeCgroup kills every process at and below dir, waits until they are gone,
// and removes the directories. An absent dir is no error.
func removeCgroup(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := killCgroup(dir); err != nil {
		return err
	}
	if err := awaitEmpty(ctx, dir); err != nil {
		return err
	}
	return removeTree(dir)
}

// killCgroup ends every process at and below dir: by cgroup.kill (Linux 5.14),
// or one by one.
func killCgroup(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return killOneByOne(dir)
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("1"); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", dir, err)
	}
	return nil
}

// killRounds bounds how often killOneByOne looks for processes that were born
// while it killed their parents.
const killRounds = 10

func killOneByOne(dir string) error {
	for range killRounds {
		killed := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			n, err := killEach(path)
			killed += n
			return err
		})
		if err != nil || killed == 0 {
			return err
		}
	}
	return nil // who is left is seen by awaitEmpty
}

// killEach kills the processes of one directory and returns their number.
func killEach(dir string) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	pids := strings.Fields(string(data))
	for _, field := range pids {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("processes of %s: %w", dir, err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("kill %d in %s: %w", pid, dir, err)
		}
	}
	return len(pids), nil
}

// awaitEmpty waits until no process is left at and below dir: cgroup.events
// says "populated 0", and signals a change by POLLPRI.
func awaitEmpty(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("wait for the end of cgroup %s: %w", dir, err)
	}
	defer f.Close()
	buf := make([]byte, 256)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("cgroup %s still has processes: %w", dir, err)
		}
		// Bounded, so that ctx is seen.
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll %s: %w", f.Name(), err)
		}
	}
}

// busyWait bounds how long an emptied cgroup may refuse its removal: the
// kernel lets the last task go a moment after it says "populated 0".
const busyWait = 2 * time.Second

// removeTree removes a tree of empty cgroups, leaves first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	errs = append(errs, removeEmpty(dir))
	return errors.Join(errs...)
}

func removeEmpty(dir string) error {
	deadline := time.Now().Add(busyWait)
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EBUSY) && time.Now().Before(deadline):
			time.Sleep(time.Millisecond)
		default:
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}

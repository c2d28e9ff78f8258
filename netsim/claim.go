package netsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// A cluster's cgroup says whose it is: it has the path of the run directory as an
// attribute, and is locked (flock) by the process that owns the cluster, as long as it
// lives. So what a dead one has left is found wherever its run directory was, and
// nothing of anybody else's is ever touched.

// runAttr is the attribute with the run directory, see xattr(7). Only root reaches it.
const runAttr = "trusted.duomesh.run"

// clusterCgroup is the cgroup of a living cluster. The cluster owns it.
type clusterCgroup struct {
	path string
	lock *os.File
}

// claimCgroup makes the cgroup of a cluster whose run directory is run.
func claimCgroup(path, run string) (_ *clusterCgroup, err error) {
	if err := isFree(path); err != nil {
		return nil, err
	}
	lock, err := makeCgroup(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close(), os.Remove(path))
		}
	}()
	if err := flock(lock, unix.LOCK_EX); err != nil {
		return nil, err
	}
	if run, err = filepath.Abs(run); err != nil {
		return nil, err
	}
	// Without attributes nobody sweeps it but by its run directory.
	if err := unix.Fsetxattr(int(lock.Fd()), runAttr, []byte(run), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return nil, fmt.Errorf("mark cgroup %s: %w", path, err)
	}
	return &clusterCgroup{path, lock}, nil
}

// isFree reports that a cluster of another run directory has the name.
func isFree(cgroup string) error {
	if _, err := os.Lstat(cgroup); err != nil {
		return nil // what else is wrong is said where it is made
	}
	whose := ""
	if run := runOf(cgroup); run != "" {
		whose = " (--run-dir " + filepath.Dir(run) + ")"
	}
	return fmt.Errorf("a cluster of this name is there already%s: %w", whose, &fs.PathError{Op: "mkdir", Path: cgroup, Err: fs.ErrExist})
}

// remove ends every process in it and removes it.
func (c *clusterCgroup) remove(ctx context.Context) error {
	return errors.Join(removeCgroup(ctx, c.path), c.lock.Close())
}

// abandoned locks the cgroup of a cluster when its owner has died, and returns where its
// run directory is, or was. A nil lock means that it is not there, alive, or nobody knows
// whose; else the caller closes it.
func abandoned(path string) (lock *os.File, run string, err error) {
	if runOf(path) == "" {
		return nil, "", nil
	}
	lock, err = lockDir(path, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return nil, "", nil
	case err != nil:
		return nil, "", err
	case !same(lock, path): // removed, and made by another meanwhile
		return nil, "", lock.Close()
	}
	return lock, runOf(path), nil
}

// runOf is the run directory that a cgroup names; "" where it names none.
func runOf(path string) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getxattr(path, runAttr, buf)
	if err != nil {
		return ""
	}
	run := string(buf[:n])
	if !filepath.IsAbs(run) || cgroupPrefix+filepath.Base(run) != filepath.Base(path) {
		return "" // not as this package writes it
	}
	return run
}

// owner is what a cgroup says of itself.
type owner int

const (
	nobodySays owner = iota // by its name alone
	thisCluster
	someoneElse
)

// ownerOf holds what a cgroup says against the path of a run directory.
func ownerOf(cgroup, run string) (owner, error) {
	said := runOf(cgroup)
	run, err := filepath.Abs(run)
	switch {
	case err != nil:
		return nobodySays, err
	case said == "":
		return nobodySays, nil
	case said == run:
		return thisCluster, nil
	}
	return someoneElse, nil
}

// sweepCgroups removes what dead clusters left, wherever their run directories were.
func sweepCgroups(ctx context.Context) error {
	root, err := kernel.Cgroup2()
	if errors.Is(err, kernel.ErrNoCgroup2) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), cgroupPrefix) {
			errs = append(errs, sweepCgroup(ctx, filepath.Join(root, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func sweepCgroup(ctx context.Context, path string) error {
	lock, run, err := abandoned(path)
	if err != nil || lock == nil {
		return err
	}
	defer lock.Close()
	if err := sweepRun(ctx, path, run); err != nil {
		return fmt.Errorf("sweep %s: %w", filepath.Base(path), err)
	}
	return nil
}

// sweepRun removes a dead cluster's cgroup, if it is named, mounts and run directory. Of a directory that
// has lost its mark only what is empty goes: somebody has begun to remove it.
func sweepRun(ctx context.Context, cgroup, run string) error {
	mounts, err := mountsBelow(run)
	if err != nil {
		return err
	}
	var errs []error
	if cgroup != "" {
		errs = append(errs, removeCgroup(ctx, cgroup))
	}
	for _, m := range mounts {
		errs = append(errs, unmount(m))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(run, mark)); err == nil {
		return os.RemoveAll(run)
	}
	for _, m := range mounts {
		for dir := m; dir != filepath.Dir(run) && os.Remove(dir) == nil; {
			dir = filepath.Dir(dir)
		}
	}
	return nil
}

package netsim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// A run directory is locked (flock) by the process that owns the cluster, as
// long as it lives: a directory whose lock is free belongs to a dead one. The
// directory of all clusters is locked while one is claimed or swept.

// mark is the file that says that a directory is a cluster's: nothing without it
// is ever removed, whatever somebody names as the run directory.
const mark = ".duomesh-cluster"

// runDir is the run directory of a living cluster. The cluster owns it.
type runDir struct {
	path string
	lock *os.File
}

// claimRunDir makes and locks the run directory of a new cluster.
func claimRunDir(cfg Config) (*runDir, error) {
	all, err := lockAll(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	path := cfg.dir()
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("a cluster of this name is there already: %w", &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	// It gets its name when it is whole: one without a mark would be nobody's.
	claim, err := os.MkdirTemp(cfg.RunDir, claimPrefix)
	if err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	lock, err := lockDir(claim, unix.LOCK_EX)
	if err != nil {
		return nil, errors.Join(err, os.Remove(claim))
	}
	if err := nameRunDir(claim, path); err != nil {
		return nil, errors.Join(err, lock.Close(), os.RemoveAll(claim))
	}
	return &runDir{path: path, lock: lock}, nil
}

// claimPrefix begins the names of run directories that have no other name yet. They
// are there only while the directory of all clusters is locked.
const claimPrefix = ".duomesh-claim-"

func nameRunDir(claim, path string) error {
	if err := os.WriteFile(filepath.Join(claim, mark), nil, 0o600); err != nil {
		return fmt.Errorf("mark run directory: %w", err)
	}
	if err := os.Rename(claim, path); err != nil {
		return fmt.Errorf("name run directory: %w", err)
	}
	return nil
}

// Name is a cluster's name that is taken before the cluster is opened, so that nobody else
// gets it while what the cluster needs is made.
type Name struct {
	run *runDir
}

// Reserve takes the name cfg.ID; fs.ErrExist says that somebody has it. The caller closes
// it, whether or not a cluster was opened with it.
func Reserve(ctx context.Context, cfg Config) (*Name, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := Sweep(ctx, cfg.RunDir); err != nil {
		cfg.Log.Warn("what a dead cluster left could not be removed", "error", err)
	}
	cgroup, err := cgroupOf(cfg.ID)
	if err != nil {
		return nil, err
	}
	if err := isFree(cgroup); err != nil {
		return nil, err
	}
	run, err := claimRunDir(cfg)
	if err != nil {
		return nil, err
	}
	return &Name{run}, nil
}

// Close gives the name back if no cluster has taken it over.
func (n *Name) Close() error {
	if n == nil || n.run == nil {
		return nil
	}
	run := n.run
	n.run = nil
	return run.remove()
}

// claim is the run directory of a cluster that is being opened: that of the name which was
// taken for it, or a new one.
func (c Config) claim() (*runDir, error) {
	if c.Name == nil || c.Name.run == nil {
		return claimRunDir(c)
	}
	run := c.Name.run
	if run.path != c.dir() {
		return nil, fmt.Errorf("the name %s was taken, and not %s", filepath.Base(run.path), c.ID)
	}
	c.Name.run = nil
	return run, nil
}

// remove removes the directory with what is in it, and the directory of all
// clusters when this was the last.
func (r *runDir) remove() error {
	all, err := lockAll(filepath.Dir(r.path))
	if err != nil {
		return errors.Join(err, r.lock.Close())
	}
	defer all.Close()
	err = errors.Join(os.RemoveAll(r.path), r.lock.Close())
	os.Remove(all.Name()) // not empty: other clusters
	return err
}

// lockAll locks the directory of all clusters, and makes it when it is absent.
// Closing the result unlocks it.
func lockAll(path string) (*os.File, error) {
	for {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make run directory: %w", err)
		}
		f, err := lockDir(path, unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by the last cluster meanwhile
		}
		if err != nil {
			return nil, err
		}
		if same(f, path) {
			return f, nil
		}
		f.Close()
	}
}

// same reports whether path still names the open directory.
func same(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

// lockDir opens a directory and locks it. Closing the result unlocks it.
func lockDir(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock directory: %w", err)
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("lock directory %s: %w", f.Name(), err)
		}
	}
}

// dead reports whether nobody owns a run directory.
func dead(path string) (bool, error) {
	f, err := lockDir(path, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// Dead are the names of clusters below runDir (empty: DefaultRunDir) whose process has
// died and left something for Sweep, in order.
func Dead(runDir string) ([]string, error) {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list dead clusters: %w", err)
	}
	var ids []string
	for _, e := range entries {
		path := filepath.Join(runDir, e.Name())
		if _, err := os.Lstat(filepath.Join(path, mark)); err != nil || CheckID(e.Name()) != nil {
			continue // no cluster's
		}
		gone, err := dead(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if gone {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Sweep removes what clusters left whose process has died: their processes,
// cgroups, mounts and run directories, those below runDir (empty: DefaultRunDir) and
// those anywhere else whose cgroup is still there; and the cgroups of dead trials of
// the kernel. It leaves living clusters alone.
func Sweep(ctx context.Context, runDir string) error {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	all, err := lockAll(runDir)
	if err != nil {
		return err
	}
	defer all.Close()
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	var errs []error
	for _, e := range entries {
		switch {
		case !e.IsDir():
		case strings.HasPrefix(e.Name(), claimPrefix):
			errs = append(errs, os.RemoveAll(filepath.Join(runDir, e.Name())))
		default:
			errs = append(errs, sweepOne(ctx, runDir, e.Name()))
		}
	}
	os.Remove(runDir) // not empty: living clusters
	return errors.Join(append(errs, sweepCgroups(ctx), kernel.SweepGrounds())...)
}

func sweepOne(ctx context.Context, runDir, id string) error {
	path := filepath.Join(runDir, id)
	if _, err := os.Lstat(filepath.Join(path, mark)); err != nil || !label.MatchString(id) {
		return nil // not a cluster's
	}
	gone, err := dead(path)
	if err != nil || !gone {
		return err
	}
	cgroup, err := cgroupOf(id)
	if err != nil {
		return err
	}
	switch owner, err := ownerOf(cgroup, path); {
	case err != nil:
		return err
	case owner == someoneElse:
		cgroup = "" // of another cluster of this name
	case owner == thisCluster:
		return sweepCgroup(ctx, cgroup)
	}
	if err := sweepRun(ctx, cgroup, path); err != nil {
		return fmt.Errorf("sweep cluster %s: %w", id, err)
	}
	return nil
}

// mountsBelow returns the mount points below dir, innermost first.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var mounts []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	slices.Sort(mounts)
	slices.Reverse(mounts)
	return mounts, nil
}

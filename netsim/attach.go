package netsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Start runs a program inside a pod of another process's cluster: it is born
// in the pod's namespace and cgroup. It ends at the latest with the cluster.
func (p PodState) Start(ctx context.Context, command Command) (*Process, error) {
	ns, err := os.Open(p.Netns)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	defer ns.Close()
	cgroup, err := os.Open(p.Cgroup)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	defer cgroup.Close()
	proc, err := startIn(ctx, ns, cgroup, command)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	return proc, nil
}

// downPoll is how often Down looks whether a cluster is gone.
const downPoll = 20 * time.Millisecond

// Down asks the process that owns a cluster to end (SIGTERM), returns when the
// cluster is gone, and removes what a process without manners left.
func Down(ctx context.Context, runDir string, s State) error {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	dir := filepath.Join(runDir, s.ID)
	// The descriptor is of the owner for sure when the lock is held after it
	// was opened: a process ID may be another's by now.
	fd, err := unix.PidfdOpen(s.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		var gone bool
		if gone, err = dead(dir); err == nil && !gone {
			err = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
		}
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end process %d of cluster %s: %w", s.PID, s.ID, err)
	}
	if err := awaitDead(ctx, dir); err != nil {
		return fmt.Errorf("process %d does not take cluster %s down: %w", s.PID, s.ID, err)
	}
	if s.Kubeconfig != "" { // in the directory of its control plane, which goes last
		if err := awaitDead(ctx, filepath.Dir(s.Kubeconfig)); err != nil {
			return fmt.Errorf("process %d does not take the control plane of cluster %s down: %w", s.PID, s.ID, err)
		}
	}
	return Sweep(ctx, runDir)
}

// awaitDead returns when nobody holds a run directory. The lock is polled: to
// wait for it would be to hold it against its owner's own check.
func awaitDead(ctx context.Context, dir string) error {
	tick := time.NewTicker(downPoll)
	defer tick.Stop()
	for {
		gone, err := dead(dir)
		if gone || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

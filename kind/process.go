package kind

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/traffic"
)

// endTime is how long load has to end once it is told to.
const endTime = 2 * time.Second

// Process is this machine's own program at work in a pod.
type Process struct {
	pod  string
	cmd  *exec.Cmd
	said bytes.Buffer
	done chan struct{}
	err  error // set before done is closed
}

// Start runs this program again under another name in a pod: born in its network
// namespace and in the cgroup of its container. It is killed when ctx is done. The
// files stay the caller's.
func (c *Cluster) Start(ctx context.Context, pod, name string, stdin, stdout *os.File) (*Process, error) {
	p, err := c.pod(pod)
	if err != nil {
		return nil, err
	}
	return c.start(ctx, p, []string{name}, stdin, stdout)
}

// Birthplace is the cgroup in which Start's processes are born. It stays the world's.
func (c *Cluster) Birthplace(pod string) (*os.File, error) {
	p, err := c.pod(pod)
	if err != nil {
		return nil, err
	}
	return p.place.leaf, nil
}

func (c *Cluster) start(ctx context.Context, p *pod, args []string, stdin, stdout *os.File) (*Process, error) {
	r := &Process{pod: p.spec.Name, cmd: exec.CommandContext(ctx, c.exe), done: make(chan struct{})}
	r.cmd.Args, r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = args, stdin, stdout, &r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(p.place.leaf.Fd())}
	r.cmd.WaitDelay = endTime
	if err := kernel.InNetns(p.place.netns, r.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in pod %s: %w", args[0], r.pod, err)
	}
	go func() {
		defer close(r.done)
		if err := r.cmd.Wait(); err != nil {
			r.err = fmt.Errorf("%s in pod %s: %w: %s", args[0], r.pod, err, bytes.TrimSpace(r.said.Bytes()))
		}
	}()
	return r, nil
}

// Wait waits for its end; nil for exit code 0.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop asks it to end, and kills it when ctx is done or it takes too long.
func (p *Process) Stop(ctx context.Context) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // one that has ended is as asked
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// launcher starts load in a pod.
func (c *Cluster) launcher(p *pod) traffic.Launch {
	return func(ctx context.Context, args []string, stdin, stdout *os.File) (func() error, error) {
		r, err := c.start(ctx, p, args, stdin, stdout)
		if err != nil {
			return nil, err
		}
		return r.Wait, nil
	}
}

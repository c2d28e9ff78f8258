package netsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"golang.org/x/sys/unix"
)

// Command is a program to run in a pod.
type Command struct {
	// Argv is the program's whole argument vector.
	Argv []string
	// Path is the executable when it is not Argv[0]; a name without a slash is
	// looked up in PATH.
	Path string
	// Env is the environment as "key=value"; nil means this process's.
	Env []string
	// Dir is the working directory; empty means this process's.
	Dir string
	// Stdin, Stdout and Stderr may be nil: then /dev/null. The tail of what
	// goes to a nil Stderr is kept for the error of Wait.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Foreground leaves the process in the caller's process group, as a program
	// that talks to a terminal must be. Then it alone is killed, not its group.
	Foreground bool
}

// Process is a running program in a pod, in a process group of its own unless
// it is in the foreground.
type Process struct {
	cmd   *exec.Cmd
	group bool
	done  chan struct{}
	err   error // set before done is closed
}

// leaveTime is how long a process has after SIGTERM before it is killed.
const leaveTime = 2 * time.Second

// Start runs a program inside the network namespace and the cgroup of a pod:
// it is born in both. The process is killed with its group when ctx is done,
// and at the latest when the cluster is closed. The caller need not wait for it.
func (c *Cluster) Start(ctx context.Context, pod string, command Command) (*Process, error) {
	p, err := c.pod(pod)
	if err != nil {
		return nil, err
	}
	proc, err := startIn(ctx, p.netns, p.cgroup, command)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod, err)
	}
	return proc, c.adopt(proc)
}

// adopt makes a process end with the cluster, at once when that is closed.
func (c *Cluster) adopt(proc *Process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		proc.kill()
		return errors.Join(errClosed, proc.Wait())
	}
	c.procs[proc] = struct{}{}
	go func() {
		<-proc.done
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.procs, proc)
	}()
	return nil
}

// startIn starts a process that is born in a namespace and a cgroup.
func startIn(ctx context.Context, ns, cgroup *os.File, command Command) (*Process, error) {
	if len(command.Argv) == 0 {
		return nil, errors.New("no program to start")
	}
	path := command.Path
	if path == "" {
		path = command.Argv[0]
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args, cmd.Env, cmd.Dir = command.Argv, command.Env, command.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = command.Stdin, command.Stdout, command.Stderr
	said := new(tail)
	if cmd.Stderr == nil {
		cmd.Stderr = said
	}
	// No Pdeathsig: it follows the thread, and this one is thrown away.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: !command.Foreground, UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	proc := &Process{cmd: cmd, group: !command.Foreground, done: make(chan struct{})}
	cmd.Cancel = proc.kill
	cmd.WaitDelay = leaveTime
	if err := kernel.InNetns(ns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", command.Argv[0], err)
	}
	go func() {
		proc.err = said.explain(command.Argv[0], cmd.Wait())
		close(proc.done)
	}()
	return proc, nil
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until the process has ended: nil for exit code 0, otherwise an
// error that holds *exec.ExitError. It may be called any number of times.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the process alone. A process that has ended is
// os.ErrProcessDone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the process to end by SIGTERM, kills its group after two seconds or
// when ctx is done, and waits for it. How it ended is for Wait to say.
func (p *Process) Stop(ctx context.Context) {
	p.Signal(syscall.SIGTERM) // fails only when it has ended
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	p.kill()
	<-p.done
}

// ended reports whether the process has been waited for.
func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process with its group; one that has ended is os.ErrProcessDone.
func (p *Process) kill() error {
	if !p.group {
		return p.cmd.Process.Kill()
	}
	if p.ended() {
		return os.ErrProcessDone
	}
	err := unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// tail keeps the end of what was written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailBytes = 4096

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if extra := len(t.kept) - tailBytes; extra > 0 {
		t.kept = t.kept[extra:]
	}
	return len(b), nil
}

// explain puts what the process said last beside how it ended.
func (t *tail) explain(name string, err error) error {
	if err == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if said := strings.TrimSpace(string(t.kept)); said != "" {
		return fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return fmt.Errorf("%s: %w", name, err)
}

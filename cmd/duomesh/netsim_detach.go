package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/netsim"
)

// readyFD is the descriptor on which a background process says that its cluster
// is up: the first of exec.Cmd.ExtraFiles.
const readyFD = 3

// upDetached starts this program again in a session of its own, and returns
// when the cluster is up. What goes wrong before is said by that process itself.
func upDetached(ctx context.Context, f upFlags, out, log io.Writer) error {
	ready, childReady, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	defer ready.Close()
	args := []string{"netsim", "up", "--run-dir", *f.runDir, "-f", f.file, fmt.Sprintf("--ready-fd=%d", readyFD)}
	if f.id != "" {
		args = append(args, "--id", f.id)
	}
	if f.pinned {
		args = append(args, "--pinned")
	}
	if f.agents {
		args = append(args, "--agents")
	}
	if f.istiod {
		args = append(args, "--istiod")
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0] // as people find it among the processes
	cmd.Stderr = log
	if log == os.Stderr {
		cmd.Stderr = os.Stderr
	}
	cmd.ExtraFiles = []*os.File{childReady}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	childReady.Close()
	if err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	id, err := bufio.NewReader(ready).ReadString('\n')
	if err == nil {
		fmt.Fprint(out, id)
		if f.istiod {
			// The name alone stays what a script reads.
			if s, err := netsim.Find(*f.runDir, strings.TrimSpace(id)); err == nil {
				printKube(log, s)
			}
		}
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			return gateError{exit.ExitCode()}
		}
		return fmt.Errorf("the process in the background ended: %w", err)
	}
	return errors.New("the process in the background ended before its cluster was up")
}

// detached tells the starter that the cluster is up and lets go of what is the
// starter's: from now on this process writes to a file in the run directory.
func detached(c *netsim.Cluster, fd int) error {
	log, err := os.OpenFile(filepath.Join(c.Dir(), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	ready := os.NewFile(uintptr(fd), "ready")
	if ready == nil {
		return fmt.Errorf("descriptor %d is not open", fd)
	}
	defer ready.Close()
	for _, std := range []int{1, 2} {
		if err := unix.Dup3(int(log.Fd()), std, 0); err != nil {
			return fmt.Errorf("redirect output: %w", err)
		}
	}
	if _, err := io.Copy(ready, strings.NewReader(c.ID()+"\n")); err != nil {
		return fmt.Errorf("say that the cluster is up: %w", err)
	}
	return nil
}

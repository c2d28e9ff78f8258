package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/netsim"
)

func newNetsimExecCmd(runDir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec [CLUSTER/]POD -- COMMAND [ARG...]",
		Short: "Run any program of this machine inside a pod",
		Long: "Run any program of this machine inside a pod: in its network namespace and its cgroup,\n" +
			"with this terminal and this file system. Names of services are not resolved: use addresses\n" +
			"(duomesh netsim ls CLUSTER). The exit code is the program's; 127 where\n" +
			"there is no such program, 126 where it cannot be run.",
		Example: "  duomesh netsim exec client -- curl -s http://10.96.0.10/",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || cmd.ArgsLenAtDash() != 1 {
				return usagef("exec: want POD -- COMMAND, for example: duomesh netsim exec client -- ip address")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := requireNetsim(); err != nil {
				return err
			}
			pod, err := resolvePod(*runDir, args[0])
			if err != nil {
				return err
			}
			return execIn(pod, args[1:])
		},
	}
}

// execIn runs a program in the foreground. What is typed, Ctrl-C too, is the
// program's: this process only waits for it, and passes on what is sent to it
// alone.
func execIn(pod netsim.PodState, argv []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	defer signal.Stop(signals)
	p, err := pod.Start(context.Background(), netsim.Command{
		Argv: argv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Foreground: true,
	})
	switch {
	case noSuchProgram(err):
		return codeError{127, err} // as shells say it
	case errors.Is(err, fs.ErrNotExist):
		return err // the pod lacks something
	case err != nil:
		return codeError{126, err}
	}
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGINT { // the terminal sends it to the program as well
				p.Signal(s) // fails only when it has ended
			}
		case <-p.Done():
			return exitOf(p.Wait())
		}
	}
}

// noSuchProgram reports whether it is the program that is missing, and not the pod's
// cgroup or namespace.
func noSuchProgram(err error) bool {
	var path *fs.PathError
	return errors.Is(err, exec.ErrNotFound) ||
		errors.As(err, &path) && path.Op != "open" && errors.Is(err, fs.ErrNotExist)
}

// exitOf makes a program's end this program's own.
func exitOf(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return gateError{128 + int(w.Signal())} // as shells say it
	}
	return gateError{exit.ExitCode()}
}

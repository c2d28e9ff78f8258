package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/flagwords"
	"github.com/duomesh/duomesh/internal/kernel"
)

// usageError is bad input: the command did nothing, and exits with code 2.
type usageError struct{ error }

// Unwrap returns the cause.
func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// judged keeps exit code 1 of a gate for its verdict: what ends it before there is one,
// or keeps it from being written, is exit code 2.
func judged(err error) error {
	var gate gateError
	if err == nil || errors.As(err, &gate) {
		return err
	}
	return usageError{err}
}

// codeError is said, and ends the command with an exit code of its own.
type codeError struct {
	code int
	error
}

// Unwrap returns the cause.
func (c codeError) Unwrap() error { return c.error }

// called is a command's name behind that of this program, which every message begins with.
func called(cmd *cobra.Command) string {
	_, name, below := strings.Cut(cmd.CommandPath(), " ")
	if !below {
		return ""
	}
	return name + ": "
}

func unknownCommand(cmd *cobra.Command, name string) error {
	return usagef("unknown command %q: see %s --help", name, cmd.CommandPath())
}

// gateError ends a command with a gate's own exit code; everything has been
// printed already.
type gateError struct{ code int }

// Error implements error.
func (g gateError) Error() string { return fmt.Sprintf("exit code %d", g.code) }

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:           "duomesh",
		Short:         "A sidecarless service mesh, and the bench that proves it",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // else cobra answers, with another exit code
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
			return unknownCommand(cmd, args[0]) // the flag is meant for that one
		}
		if cmd.HasSubCommands() {
			return usagef("%s%w: see %s --help", called(cmd), flagwords.Plain(err), cmd.CommandPath())
		}
		return usagef("%s%w", called(cmd), flagwords.Plain(err))
	})
	root.AddCommand(newVerifyCmd(), newBenchCmd(), newWaypointCmd(), newNetsimCmd(), newStatusCmd(), newDumpCmd(), newDiffCmd(), newExplainCmd(), newProbeCmd(), newDoctorCmd(),
		newInstallCmd(), newUninstallCmd(), newEnrollCmd(), newUnenrollCmd(), newLogCmd(), newVersionCmd())
	completeNames(root)
	return root
}

// requireHost returns one clear sentence when this machine cannot run a
// simulated cluster, or lacks something more that the command needs.
func requireHost(more ...kernel.Feature) error {
	if os.Geteuid() != 0 {
		return usagef("root is needed to load BPF programs and make network namespaces: run it with sudo")
	}
	for _, f := range append([]kernel.Feature{kernel.Cgroup2Mount, kernel.BPF, kernel.BTF}, more...) {
		if err := f.Probe(); err != nil {
			since := ""
			if f.Since != "" {
				since = " (Linux " + f.Since + ")"
			}
			switch {
			case errors.Is(err, unix.EROFS):
				return usagef("this machine does not let %s be tried: %w", f.Name, err)
			case f.Name == kernel.Cgroup2Mount.Name:
				return usagef("this machine lacks a mounted cgroup v2: %w", err)
			}
			return usagef("this kernel lacks %s%s: %w", f.Name, since, err)
		}
	}
	return nil
}

// output is the standard output of a command. It keeps the first error: a table on a
// full disk is no success.
type output struct {
	to  io.Writer
	err error
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// after is err, or that a command that ended without one has lost output.
func (o *output) after(err error) error {
	if err == nil && o.err != nil {
		return usagef("write output: %w", o.err)
	}
	return err
}

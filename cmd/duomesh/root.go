package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/kernel"
)

// usageError is bad input: the command did nothing, and exits with code 2.
type usageError struct{ error }

// Unwrap returns the cause.
func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
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
				return usagef("unknown command %q: see duomesh --help", args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%s: %w", cmd.CommandPath(), err)
	})
	root.AddCommand(newVerifyCmd(), newBenchCmd(), newWaypointCmd(), newNetsimCmd(), newStatusCmd(), newDumpCmd(), newDiffCmd(), newExplainCmd(), newProbeCmd(), newDoctorCmd(),
		newInstallCmd(), newUninstallCmd(), newEnrollCmd(), newUnenrollCmd(), newLogCmd(), newVersionCmd())
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
			return usagef("this kernel lacks %s%s: %w", f.Name, since, err)
		}
	}
	return nil
}

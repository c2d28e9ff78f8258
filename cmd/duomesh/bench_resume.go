package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/bench"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/internal/kernel"
)

func newBenchResumeCmd() *cobra.Command {
	f := benchFlags{tools: benchTools()}
	cmd := &cobra.Command{
		Use:   "resume DIR",
		Short: "Go on with a run that was interrupted",
		Long: "The run's own plan and seed are kept, and every trial that it has. Only the build and the machine that\n" +
			"measured the first part, with the same Envoy and ztunnel, may measure the rest.",
		Example: "  duomesh bench resume out/bench/latest",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("bench resume: one run directory is needed, for example out/bench/latest")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return judged(f.resume(cmd, args[0])) },
	}
	f.registerZtunnel(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "table or json")
	return cmd
}

// resume goes on with the run in a directory, and ends as bench does.
func (f *benchFlags) resume(cmd *cobra.Command, path string) error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	run, err := record.Load(path)
	if err != nil {
		return err
	}
	p, progress := run.Head.Plan, cmd.ErrOrStderr()
	if p.World != "" {
		return usagef("bench resume %s: it ran on %s, where pods do not outlive a run: begin anew", path, p.World)
	}
	if err := f.findZtunnel(cmd.Context(), p, progress); err != nil {
		return err
	}
	if f.noZtunnel != "" {
		return fmt.Errorf("go on with %s: %s", path, f.noZtunnel)
	}
	if err := requireHost(kernel.PacketHook); err != nil {
		return err
	}
	programs, err := f.tools.Programs(cmd.Context(), p)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "seed %d, %d trials are there\n", p.Seed, len(run.Trials))
	_, s, err := bench.Resume(cmd.Context(), bench.Config{
		Open: f.tools.Open, Judge: bench.ProbeJudge, Programs: programs, Progress: benchProgress(progress, p),
	}, path)
	if err != nil {
		return err
	}
	return showBench(s, path, f.output, cmd.OutOrStdout())
}

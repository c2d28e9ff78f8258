package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/bench"
)

func newBenchReportCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "report DIR",
		Short:   "Make the files of a run again from its recorded requests, the HTML report among them",
		Example: "  duomesh bench report out/bench/latest",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("bench report: one run directory is needed, for example out/bench/latest")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := bench.Recompute(args[0])
			if err != nil {
				return judged(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\nverdict of the run: %s\n", filepath.Join(args[0], "report.html"), s.Verdict)
			return nil
		},
	}
}

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/bench"
	"github.com/duomesh/duomesh/bench/present"
	"github.com/duomesh/duomesh/bench/result"
)

func newBenchCompareCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "compare OLD NEW | DIR",
		Short: "Say what is worse in a new run than in an old one; of one run: make its summary again",
		Long: "Both runs are computed again from their recorded requests. What a variant adds to direct is held against what it\n" +
			"added before, and the difference against that of direct-aa. Exit code 1 when something is worse beyond noise and\n" +
			"chance, or the new run is not valid; 3 when nothing can be said.",
		Example: "  duomesh bench compare out/bench/20260101T120000.000Z out/bench/latest\n  duomesh bench compare out/bench/latest",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usagef("bench compare: two run directories are needed, or one, for example out/bench/latest")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if len(args) == 1 {
				return judged(compareBench(args[0], output, cmd.OutOrStdout()))
			}
			return judged(compareRuns(args[0], args[1], output, cmd.OutOrStdout()))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func compareBench(path, output string, out io.Writer) error {
	s, err := bench.Recompute(path)
	if err != nil {
		return err
	}
	return showBench(s, path, output, out)
}

// compareRuns ends with exit code 1 when the newer run is worse or not valid, and with 3
// when nothing can be said.
func compareRuns(older, newer, output string, out io.Writer) error {
	c, err := bench.Compare(older, newer)
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", older, newer, err)
	}
	show := present.Comparison
	if output == "json" {
		show = present.JSON[result.Comparison]
	}
	if err := show(out, c); err != nil {
		return err
	}
	return gateError{c.Verdict.ExitCode()}
}

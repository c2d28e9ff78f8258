package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/present"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
)

type benchFlags struct {
	plan      plan.Plan
	variants  []string
	modes     []string
	placement string
	full      bool
	out       string
	from      string
	output    string
}

func newBenchCmd() *cobra.Command {
	f := benchFlags{plan: plan.Default()}
	if envoyPath() != "" && beside("duomesh-waypoint") != "" {
		f.plan.Variants = plan.Variants()
	}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what the mesh adds to a request, beside no mesh and kube-proxy's DNAT",
		Example: `  duomesh bench
  duomesh bench --modes closed,newconn --variants direct,direct-aa,duomesh-l4 --blocks 12
  duomesh bench compare out/bench/latest`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown argument %q: see duomesh bench --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := f.complete(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if f.from != "" {
				return compareBench(f.from, f.output, cmd.OutOrStdout())
			}
			return runBench(cmd.Context(), f, p, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.register(cmd)
	cmd.AddCommand(newBenchCompareCmd())
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command) {
	flags, p := cmd.Flags(), &f.plan
	flags.StringSliceVar(&f.variants, "variants", names(p.Variants), "what to compare; direct must be among them")
	flags.StringSliceVar(&f.modes, "modes", names(p.Modes), "forms of load")
	flags.StringVar(&f.placement, "placement", "cross", "client and server on two nodes (cross), on one (same), or both")
	flags.IntVar(&p.Blocks, "blocks", 0, "number of blocks `N`; 0 means as many as fit into the budget")
	flags.DurationVar(&p.Budget, "budget", p.Budget, "time for the timed pass, unless --blocks is given")
	flags.Uint64Var(&p.Seed, "seed", 0, "seed of orders and resamples; 0 takes one from the clock and prints it")
	flags.BoolVar(&f.full, "full", false, "both placements and more blocks: about 45 minutes")
	flags.DurationVar(&p.Duration, "duration", p.Duration, "measured time of one trial")
	flags.DurationVar(&p.Warmup, "warmup", p.Warmup, "time before it that is thrown away")
	flags.Float64Var(&p.Load.PerSecond, "rate", p.Load.PerSecond, "requests per second of the fixed mode")
	flags.IntVar(&p.Load.Connections, "connections", p.Load.Connections, "connections of the saturation mode")
	flags.IntVar(&p.Load.PayloadBytes, "payload", p.Load.PayloadBytes, "bytes of each POST")
	flags.IntVar(&p.Load.ReplyBytes, "reply", p.Load.ReplyBytes, "bytes of each reply")
	flags.IntVar(&p.Load.MaxProcs, "procs", p.Load.MaxProcs, "GOMAXPROCS of client and server")
	flags.Float64Var(&p.ForeignLimit, "foreign", p.ForeignLimit, "share of the machine's CPU that others may use before a trial is repeated")
	flags.IntVar(&p.Repeats, "repeats", p.Repeats, "how often a disturbed trial is repeated at most")
	flags.StringVar(&f.out, "out", "out/bench", "`DIR` below which the run makes its own")
	flags.StringVar(&f.from, "from", "", "measure nothing: make the summary of the run in `DIR` again")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json")
}

func newBenchCompareCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "compare DIR",
		Short:   "Make the summary of a run again from its recorded requests",
		Example: "  duomesh bench compare out/bench/latest",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("duomesh bench compare: one run directory is needed, for example out/bench/latest")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return compareBench(args[0], output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// complete turns the flags into a plan, or says everything that is wrong.
func (f *benchFlags) complete(changed func(string) bool) (plan.Plan, error) {
	p := f.plan
	p.Variants, p.Modes = of[plan.Variant](f.variants), of[plan.Mode](f.modes)
	if f.full {
		if !changed("placement") {
			f.placement = "both"
		}
		if !changed("budget") {
			p.Budget = 40 * time.Minute
		}
		p.MinBlocks = 10
	}
	switch f.placement {
	case "cross", "same":
		p.Placements = []plan.Placement{plan.Placement(f.placement)}
	case "both":
		p.Placements = []plan.Placement{plan.Cross, plan.Same}
	default:
		return p, usagef("--placement %s: must be cross, same or both", f.placement)
	}
	if p.Seed == 0 {
		p.Seed = uint64(time.Now().UnixNano())
	}
	if err := checkOutput(f.output); err != nil {
		return p, err
	}
	if err := p.Validate(); err != nil {
		return p, usageError{err}
	}
	return p, nil
}

func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return usagef("--output %s: must be table or json", output)
	}
	return nil
}

func runBench(ctx context.Context, f benchFlags, p plan.Plan, out, progress io.Writer) error {
	if err := requireHost(kernel.PacketHook); err != nil {
		return err
	}
	fmt.Fprintf(progress, "seed %d\n", p.Seed)
	tools := bench.Tools{Waypoint: beside("duomesh-waypoint"), Envoy: envoyPath()}
	left, err := leftOut(p, tools)
	if err != nil {
		return err
	}
	path, s, err := bench.Run(ctx, bench.Config{
		Plan: p, Out: f.out, Open: tools.Open, Judge: bench.ProbeJudge, Progress: benchProgress(progress, p), NotRun: left,
	})
	if err != nil {
		if path != "" {
			err = fmt.Errorf("%w (what was measured is in %s)", err, path)
		}
		return err
	}
	return showBench(s, path, f.output, out)
}

// leftOut says why variants that need an Envoy are not in the plan; a plan that has them
// without one cannot be run.
func leftOut(p plan.Plan, t bench.Tools) ([]report.Check, error) {
	why := ""
	switch {
	case t.Envoy == "":
		why = "no Envoy (make tools fetches one, ENVOY_BIN names yours)"
	case t.Waypoint == "":
		why = "no duomesh-waypoint beside this program"
	}
	var checks []report.Check
	for _, v := range plan.ProxyVariants() {
		switch in := slices.Contains(p.Variants, v); {
		case in && why != "":
			return nil, usagef("variant %s: %s", v, why)
		case !in && why != "":
			checks = append(checks, report.Check{Name: string(v), Verdict: report.NotRun, Detail: "NOT RUN: " + why})
		}
	}
	return checks, nil
}

func compareBench(path, output string, out io.Writer) error {
	s, err := bench.Recompute(path)
	if err != nil {
		return err
	}
	return showBench(s, path, output, out)
}

// showBench prints a summary and ends with the exit code of its verdict.
func showBench(s result.Summary, path, output string, out io.Writer) error {
	show := func() error { return present.Text(out, s, path) }
	if output == "json" {
		show = func() error { return present.JSON(out, s) }
	}
	if err := show(); err != nil {
		return err
	}
	return gateError{s.Verdict.ExitCode()}
}

// benchProgress is a bar on a terminal, lines elsewhere.
func benchProgress(w io.Writer, p plan.Plan) bench.Progress {
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return bench.NewBar(w, p.Cells())
		}
	}
	return bench.Lines{Out: w, Cells: p.Cells()}
}

func names[T ~string](all []T) []string { return of[string](all) }

func of[T, S ~string](all []S) []T {
	out := make([]T, len(all))
	for i, s := range all {
		out[i] = T(s)
	}
	return out
}

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/present"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
)

type benchFlags struct {
	plan      plan.Plan
	variants  []string
	modes     []string
	placement string
	full      bool
	claims    bool
	tools     bench.Tools
	image     string
	noZtunnel string            // why none could be had, or the cluster has none
	onNodes   map[string]string // the programs of a cluster's nodes
	out       string
	from      string
	output    string
	handicap  string
	kube      kubeWorld
}

func newBenchCmd() *cobra.Command {
	cmd := newBenchRunCmd("bench")
	cmd.AddCommand(newBenchRunCmd("run"), newBenchListCmd(), newBenchResumeCmd(), newBenchCompareCmd(), newBenchReportCmd())
	return cmd
}

// benchTools are the programs that are found without being named.
func benchTools() bench.Tools {
	return bench.Tools{Waypoint: beside("duomesh-waypoint"), Envoy: envoyPath()}
}

// newBenchRunCmd is the measuring itself: bench, and the same by its own name.
func newBenchRunCmd(use string) *cobra.Command {
	f := benchFlags{plan: plan.Default(), tools: benchTools()}
	cmd := &cobra.Command{
		Use:   use,
		Short: "Measure what the mesh adds to a request, beside no mesh, kube-proxy's DNAT and Istio Ambient",
		Long: "What is compared, and what this machine lacks for it: duomesh bench list.\n" +
			"A run that was interrupted goes on with duomesh bench resume DIR.",
		Example: `  duomesh bench
  duomesh bench --ztunnel /usr/local/bin/ztunnel
  duomesh bench --modes closed,newconn --variants direct,direct-aa,duomesh-l4 --blocks 12
  duomesh bench --kubeconfig out/kind/kubeconfig
  duomesh bench compare out/bench/latest`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown argument %q: see duomesh bench --help", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkEnvoy(); err != nil {
				return err
			}
			p, err := f.complete(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if f.from != "" {
				return judged(compareBench(f.from, f.output, cmd.OutOrStdout()))
			}
			open, err := f.world(cmd.Context(), p, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.noZtunnel != "" {
				if p, err = f.complete(cmd.Flags().Changed); err != nil {
					return err
				}
			}
			return judged(runBench(cmd.Context(), f, p, open, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	f.register(cmd)
	return cmd
}

func (f *benchFlags) register(cmd *cobra.Command) {
	flags, p := cmd.Flags(), &f.plan
	flags.StringSliceVar(&f.variants, "variants", names(p.Variants), "what to compare; direct must be among them")
	flags.StringSliceVar(&f.modes, "modes", names(p.Modes), "forms of load")
	flags.StringVar(&f.placement, "placement", "cross", "client and server on two nodes (cross), on one (same), or both")
	flags.IntVar(&p.Blocks, "blocks", 0, "number of blocks `N`; 0 means as many as fit into the budget")
	flags.DurationVar(&p.Budget, "budget", p.Budget, "time for the timed pass, unless --blocks is given; the least number of blocks is run in any case")
	flags.Uint64Var(&p.Seed, "seed", 0, "seed of orders and resamples; 0 takes one from the clock and prints it")
	flags.BoolVar(&f.full, "full", false, "every variant, mode and placement, and more blocks: about 45 minutes")
	flags.BoolVar(&f.claims, "claims", false, "the rows that have targets, until each target is decided: at most 45 minutes")
	f.registerZtunnel(cmd)
	f.kube.define(cmd)
	flags.DurationVar(&p.Duration, "duration", p.Duration, "measured time of one trial")
	flags.DurationVar(&p.Warmup, "warmup", p.Warmup, "time before it that is thrown away")
	flags.Float64Var(&p.Load.PerSecond, "rate", p.Load.PerSecond, "requests per second of the fixed mode")
	flags.IntVar(&p.Load.Connections, "connections", p.Load.Connections, "connections of the saturation mode")
	flags.IntVar(&p.Load.PayloadBytes, "payload", p.Load.PayloadBytes, "bytes of each POST")
	flags.IntVar(&p.Load.ReplyBytes, "reply", p.Load.ReplyBytes, "bytes of each reply")
	flags.IntVar(&p.Load.MaxProcs, "procs", p.Load.MaxProcs, "GOMAXPROCS of client and server")
	flags.Float64Var(&p.ForeignLimit, "foreign", p.ForeignLimit, "share of the machine's CPU that others may use before a trial is repeated")
	flags.IntVar(&p.Repeats, "repeats", p.Repeats, "how often a disturbed trial is repeated at most")
	flags.BoolVar(&p.Splits, "splits", p.Splits, "also let weights show that they are kept (scenarios of duomesh verify)")
	flags.StringVar(&f.handicap, "handicap", "", "delay what a variant's client sends, `VARIANT=TIME`, to see that the bench finds it; such a run is no result")
	flags.StringVar(&f.out, "out", "out/bench", "`DIR` below which the run makes its own")
	flags.StringVar(&f.from, "from", "", "measure nothing: make the summary of the run in `DIR` again")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json")
}

// complete turns the flags into a plan, or says everything that is wrong.
func (f *benchFlags) complete(changed func(string) bool) (plan.Plan, error) {
	p, err := f.matrix(changed)
	if err != nil {
		return p, err
	}
	if p, err = f.without(p); err != nil {
		return p, err
	}
	switch f.placement {
	case "cross", "same":
		p.Placements = []plan.Placement{plan.Placement(f.placement)}
	case "both":
		p.Placements = []plan.Placement{plan.Cross, plan.Same}
	default:
		return p, usagef("--placement %s: must be cross, same or both", f.placement)
	}
	if f.handicap != "" {
		name, text, _ := strings.Cut(f.handicap, "=")
		delay, err := time.ParseDuration(text)
		if err != nil {
			return p, usagef("--handicap %s: want VARIANT=TIME, for example duomesh-l4=50us", f.handicap)
		}
		p.Handicap = &plan.Handicap{Variant: plan.Variant(name), Delay: delay}
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

// without takes out of a plan what this machine lacks the programs for.
func (f *benchFlags) without(p plan.Plan) (plan.Plan, error) {
	if f.kube.given() { // its waypoints are images, and its ztunnel, too
		return bench.OnCluster(p, f.noZtunnel), nil
	}
	switch t := f.tools; {
	case t.Envoy == "":
		p = p.Without(plan.NeedsEnvoy, "no Envoy: make tools fetches one, ENVOY_BIN names yours")
	case t.Waypoint == "":
		p = p.Without(plan.NeedsEnvoy, "no duomesh-waypoint beside this program")
	}
	return f.withoutZtunnel(p)
}

// openBench makes the world of a plan.
type openBench func(context.Context, plan.Plan) (bench.World, error)

// world is where the plan runs: simulated clusters, or the cluster that was named. Where
// there is no ztunnel f.noZtunnel then says why: the plan is to be completed anew.
func (f *benchFlags) world(ctx context.Context, p plan.Plan, progress io.Writer) (openBench, error) {
	if !f.kube.given() {
		err := f.findZtunnel(ctx, p, progress)
		return f.tools.Open, err
	}
	cfg, err := f.kube.config(ctx)
	if err != nil {
		return nil, err
	}
	f.tools.Ztunnel = "" // one of this machine has no part in it
	if p.Needs(plan.NeedsZtunnel) {
		f.noZtunnel, f.onNodes, err = bench.NoAmbient(ctx, cfg.Client)
	}
	return bench.OpenCluster(cfg), err
}

// programs says which foreign programs a plan runs.
func (f *benchFlags) programs(ctx context.Context, p plan.Plan) (map[string]string, error) {
	all, err := f.tools.Programs(ctx, p)
	if err == nil {
		maps.Copy(all, f.onNodes)
	}
	return all, err
}

// matrix is what the flags ask for, before it is known what this machine has.
func (f *benchFlags) matrix(changed func(string) bool) (plan.Plan, error) {
	p := f.plan
	if f.full && f.claims {
		return p, usagef("--full and --claims: one of them")
	}
	p.Variants, p.Modes = of[plan.Variant](f.variants), of[plan.Mode](f.modes)
	switch {
	case f.full:
		p = p.Full()
	case f.claims:
		p = p.Claims()
	case !f.hasZtunnel() && !changed("variants") && !f.kube.given():
		p = p.WithStandIns()
	}
	if changed("variants") {
		p.Variants = of[plan.Variant](f.variants)
	}
	if changed("modes") {
		p.Modes = of[plan.Mode](f.modes)
	}
	if changed("budget") {
		p.Budget = f.plan.Budget
	}
	if f.full && !changed("placement") {
		f.placement = "both"
	}
	return p, nil
}

func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return usagef("--output %s: must be table or json", output)
	}
	return nil
}

func runBench(ctx context.Context, f benchFlags, p plan.Plan, open openBench, out, progress io.Writer) error {
	if err := requireHost(kernel.PacketHook); err != nil {
		return err
	}
	programs, err := f.programs(ctx, p)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "seed %d\n", p.Seed)
	path, s, err := bench.Run(ctx, bench.Config{
		Plan: p, Out: f.out, Open: open, Judge: bench.ProbeJudge, Programs: programs, Progress: benchProgress(progress, p),
	})
	if err != nil {
		if path != "" {
			err = fmt.Errorf("%w (what was measured is in %s)", err, path)
		}
		return err
	}
	return showBench(s, path, f.output, out)
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

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
)

type verifyFlags struct {
	all      bool
	list     bool
	file     string
	repeat   int
	ahead    int
	seed     uint64
	junit    string
	output   string
	evidence string
	ring     int
	single   bool
	istiod   bool
	by       []string
	second   []string
	kube     kubeWorld
}

func newVerifyCmd() *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify [--all | SCENARIO... | -f FILE]",
		Short: "Run scenarios and judge every connection by kernel probes",
		Long: "Run scenarios and judge every connection by kernel probes: on simulated pods, or with --kubeconfig\n" +
			"on a Kubernetes cluster whose nodes are on this machine, as kind's are.",
		Example: `  duomesh verify --all
  duomesh verify clusterip/weight/90-10 --repeat 20
  duomesh verify split/http/90-10 --istiod
  duomesh verify -f samples/scenarios/canary.yaml -o json
  duomesh verify --kubeconfig out/kind/kubeconfig l7/weight/90-10`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return judged(runVerify(cmd.Context(), f, args, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "run every named scenario")
	flags.BoolVar(&f.list, "list", false, "list the named scenarios and stop")
	flags.StringVarP(&f.file, "file", "f", "", "run the scenario of a YAML `FILE`")
	flags.IntVar(&f.repeat, "repeat", 1, "run each scenario `N` times")
	flags.Uint64Var(&f.seed, "seed", 0, "seed of every random choice; 0 takes one from the clock and prints it")
	flags.StringVar(&f.junit, "junit", "", "also write JUnit XML to `FILE`")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json (one line per run)")
	flags.StringVar(&f.evidence, "evidence", "out/verify", "`DIR` for the connections of runs that did not pass")
	flags.IntVar(&f.ring, "judge-ring", 0, "size in `BYTES` of the judge's event ring, a power of two; 0 takes the default")
	flags.IntVar(&f.ahead, "ahead", 1, "open so many worlds more while the loads of a scenario run")
	flags.BoolVar(&f.single, "single", false, "a few connections of each client pod, for emulated machines: shares are not judged")
	flags.BoolVar(&f.istiod, "istiod", false, "under a real etcd, kube-apiserver and istiod (docs/istiod.md)")
	flags.StringArrayVar(&f.by, "by", nil, "observe by this `PROVIDER` alone of those of its kind; may be repeated (docs/scenarios.md)")
	f.kube.define(cmd)
	flags.StringArrayVar(&f.second, "second", nil, "also judge by this `PROVIDER`, which must come to the same verdicts; may be repeated")
	return cmd
}

func runVerify(ctx context.Context, f verifyFlags, names []string, out, progress io.Writer) error {
	if err := checkOutput(f.output); err != nil {
		return err
	}
	if f.list {
		return listScenarios(out, f.output, names)
	}
	chosen, err := chooseScenarios(ctx, f, names)
	if err != nil {
		return err
	}
	if f.single {
		f.ahead = 0 // a machine that is emulated has enough to do
		for i, s := range chosen {
			chosen[i] = scenario.Single(s)
		}
	}
	if err := errors.Join(checkEnvoy(), checkEvidence(f.evidence)); err != nil {
		return err
	}
	if err := requireHost(kernel.PacketHook); err != nil {
		return err
	}
	junit, err := openJUnit(f.junit)
	if err != nil {
		return err
	}
	world, open, closeWorld, err := f.world(ctx)
	if err != nil {
		return err
	}
	if world != netsimWorld {
		f.ahead = 0 // a control plane, or a cluster, holds the pods of one scenario at a time
	}
	if f.seed == 0 {
		f.seed = uint64(time.Now().UnixNano())
	}
	fmt.Fprintf(progress, "seed %d\n", f.seed)
	results := verify.All(ctx, chosen, verify.Options{
		World: world, Open: open, Seed: f.seed, Repeat: f.repeat, Ahead: f.ahead,
		Evidence: f.evidence, JudgeRing: f.ring, By: f.by, Second: f.second,
		Done:     func(r report.Result) { printProgress(progress, r) },
		Progress: func(p verify.Progress) { printUnderWay(progress, p) },
	})
	if err := errors.Join(closeWorld(), writeResults(f, results, out), writeJUnit(junit, results)); err != nil {
		return err
	}
	return gateError{report.Overall(results).ExitCode()}
}

// named is a scenario in the machine form of --list, one on a line.
type named struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
}

// listScenarios prints those that are named, or all.
func listScenarios(out io.Writer, form string, names []string) error {
	all := scenario.All()
	if len(names) > 0 {
		var err error
		if all, err = findScenarios(names); err != nil {
			return err
		}
	}
	for _, s := range all {
		line := func() error { _, err := fmt.Fprintf(out, "%-44s %s\n", s.Name, s.Summary); return err }
		if form == "json" {
			line = func() error { return json.NewEncoder(out).Encode(named{s.Name, s.Summary}) }
		}
		if err := line(); err != nil {
			return fmt.Errorf("list scenarios: %w", err)
		}
	}
	return nil
}

func printProgress(w io.Writer, r report.Result) {
	fmt.Fprintf(w, "%-44s #%-3d %-12s %6d connections %s\n",
		r.Scenario, r.Run, r.Verdict, r.Connections, r.Elapsed.Round(time.Millisecond))
}

// printUnderWay says of loads that take long how far they are.
func printUnderWay(w io.Writer, p verify.Progress) {
	failed := ""
	if p.Failed > 0 {
		failed = fmt.Sprintf(", %d ended with an error, the last by %s", p.Failed, p.Last)
	}
	fmt.Fprintf(w, "%s: %d of %d connections made%s\n", p.Scenario, p.Made, p.Declared, failed)
}

func chooseScenarios(ctx context.Context, f verifyFlags, names []string) ([]scenario.Scenario, error) {
	if f.repeat < 1 {
		return nil, usagef("--repeat %d: must be at least 1", f.repeat)
	}
	if f.ahead < 0 {
		return nil, usagef("--ahead %d: must not be negative", f.ahead)
	}
	if f.ring < 0 || f.ring&(f.ring-1) != 0 || (f.ring > 0 && f.ring < os.Getpagesize()) {
		return nil, usagef("--judge-ring %d: must be a power of two, at least one page", f.ring)
	}
	if err := probe.CheckProviders(slices.Concat(f.by, f.second)); err != nil {
		return nil, usageError{err}
	}
	ways := 0
	for _, given := range []bool{f.all, f.file != "", len(names) > 0} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, usagef("name scenarios, or give --all, or -f FILE: one of the three (--list shows the names)")
	}
	switch {
	case f.all:
		return scenario.All(), nil
	case f.file != "":
		s, err := scenario.LoadFile(ctx, f.file)
		if err != nil {
			return nil, usageError{err}
		}
		return []scenario.Scenario{s}, nil
	}
	return findScenarios(names)
}

func findScenarios(names []string) ([]scenario.Scenario, error) {
	var chosen []scenario.Scenario
	for _, name := range names {
		s, ok := scenario.Find(name)
		if !ok {
			var known []string
			for _, k := range scenario.All() {
				known = append(known, k.Name)
			}
			slices.Sort(known)
			return nil, usagef("unknown scenario %s; the scenarios are: %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

func writeResults(f verifyFlags, results []report.Result, out io.Writer) error {
	if f.output == "json" {
		return report.WriteJSON(out, results)
	}
	return report.WriteTable(out, results)
}

// openJUnit makes the file before anything runs, so that a long run is not lost
// to a wrong path. Directories are made below the working directory alone: elsewhere
// one that is not there is a mistake. No path, no file.
func openJUnit(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	if filepath.IsLocal(path) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, usagef("--junit %s: %w", path, err)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, usagef("--junit %s: %w", path, err)
	}
	return file, nil
}

// checkEvidence reports why nothing could be kept in a directory that is perhaps not
// there yet.
func checkEvidence(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch parent := filepath.Dir(dir); {
		case errors.Is(err, fs.ErrNotExist) && parent != dir:
			dir = parent
			continue
		case err != nil:
			return usagef("--evidence: %w", err)
		case !info.IsDir():
			return usagef("--evidence: %s is no directory", dir)
		}
		return nil
	}
}

// writeJUnit fills the file and closes it.
func writeJUnit(file *os.File, results []report.Result) error {
	if file == nil {
		return nil
	}
	return errors.Join(report.WriteJUnit(file, results), file.Close())
}

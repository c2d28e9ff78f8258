package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
)

// benchArgs parses flags as a user gives them and returns the plan.
func benchArgs(args ...string) (plan.Plan, error) {
	f := benchFlags{plan: plan.Default()}
	cmd := newBenchCmd()
	cmd.ResetFlags()
	f.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return plan.Plan{}, err
	}
	return f.complete(cmd.Flags().Changed)
}

func TestBenchFlagsMakeAPlan(t *testing.T) {
	p, err := benchArgs("--modes", "closed,newconn", "--blocks", "7", "--placement", "both", "--seed", "5", "--budget", "30s")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Modes) != 2 || p.Blocks != 7 || len(p.Placements) != 2 || p.Seed != 5 || p.Budget != 30*time.Second {
		t.Errorf("plan %+v", p)
	}
	full, err := benchArgs("--full", "--placement", "same")
	if err != nil || len(full.Placements) != 1 || full.Budget <= plan.Default().Budget || full.Seed == 0 {
		t.Errorf("full plan %+v, %v", full, err)
	}
}

// TestBenchKnowsWhatItHas: without a ztunnel its rows stay, NOT RUN, and the
// stand-in comes beside them; with one it does not.
func TestBenchKnowsWhatItHas(t *testing.T) {
	t.Setenv("ZTUNNEL_BIN", "")
	t.Setenv("ZTUNNEL_IMAGE", "")
	for _, c := range []struct {
		args             []string
		absent           int
		ztunnel, standIn bool
	}{
		// Two rows need an Envoy, which this test never has.
		{nil, 4, false, true},
		{[]string{"--ztunnel", "/proc/self/exe"}, 2, true, false},
		{[]string{"--ztunnel-image", "x@sha256:1"}, 2, true, false},
		{[]string{"--variants", "direct,ztunnel"}, 1, false, false},
		{[]string{"--variants", "direct,duomesh-l7"}, 1, false, false},
		{[]string{"--claims"}, 4, false, false},
		{[]string{"--full"}, 4, false, true},
		{[]string{"--full", "--ztunnel", "/proc/self/exe"}, 2, true, true},
	} {
		p, err := benchArgs(c.args...)
		if err != nil || len(p.Absent) != c.absent || slices.Contains(p.Variants, plan.Ztunnel) != c.ztunnel || slices.Contains(p.Variants, plan.HBONERef) != c.standIn {
			t.Errorf("%v: %v, absent %v, %v", c.args, p.Variants, p.Absent, err)
		}
	}
	p, err := benchArgs("--claims", "--modes", "closed", "--budget", "5m")
	if err != nil || !p.UntilShown || len(p.Modes) != 1 || p.Budget != 5*time.Minute || p.MinBlocks != 10 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestBenchRefusesBadFlagsByName(t *testing.T) {
	for want, args := range map[string][]string{
		"--placement far":         {"--placement", "far"},
		`unknown variant "ztun"`:  {"--variants", "direct,ztun"},
		`unknown mode "slow"`:     {"--modes", "slow"},
		"--output xml":            {"-o", "xml"},
		"direct is missing":       {"--variants", "dnat"},
		"blocks -2":               {"--blocks", "-2"},
		"fewer than two requests": {"--rate", "0.1"},
		"no such file":            {"--ztunnel", "/nowhere/ztunnel"},
		"one of them":             {"--full", "--claims"},
	} {
		_, err := benchArgs(args...)
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want a usage error with %q", args, err, want)
		}
	}
}

func TestBenchArguments(t *testing.T) {
	for _, args := range [][]string{{"bench", "fast"}, {"bench", "compare"}, {"bench", "compare", "a", "b", "c"}, {"bench", "report"}, {"bench", "--blocks", "x"}} {
		root := newRootCmd()
		root.SetArgs(args)
		root.SetOut(new(bytes.Buffer))
		err := root.Execute()
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%v: %v, want a usage error", args, err)
		}
	}
	root := newRootCmd()
	root.SetArgs([]string{"bench", "compare", t.TempDir()})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "results.jsonl") {
		t.Errorf("a directory without a run: %v", err)
	}
}

package main

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
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
	t.Setenv("ZTUNNEL_IMAGE", "none")
	for _, c := range []struct {
		args             []string
		absent           int
		ztunnel, standIn bool
	}{
		// Two rows of ours, one of Ambient and one stand-in need an Envoy, which this test
		// never has.
		{nil, 6, false, true},
		{[]string{"--ztunnel", "/proc/self/exe"}, 3, true, false},
		{[]string{"--ztunnel-image", ambient.Released}, 3, true, false},
		{[]string{"--variants", "direct,ztunnel"}, 1, false, false},
		{[]string{"--variants", "direct,duomesh-l7"}, 1, false, false},
		{[]string{"--claims"}, 5, false, false},
		{[]string{"--full"}, 6, false, true},
		{[]string{"--full", "--ztunnel", "/proc/self/exe"}, 4, true, true},
	} {
		p, err := benchArgs(c.args...)
		if err != nil || len(p.Absent) != c.absent || slices.Contains(p.Variants, plan.Ztunnel) != c.ztunnel || slices.Contains(p.Variants, plan.HBONERef) != c.standIn {
			t.Errorf("%v: %v, absent %v, %v", c.args, p.Variants, p.Absent, err)
		}
	}
	t.Setenv("ZTUNNEL_IMAGE", "") // the released one
	if p, err := benchArgs(); err != nil || !slices.Contains(p.Variants, plan.Ztunnel) || slices.Contains(p.Variants, plan.HBONERef) {
		t.Errorf("by default: %v, %v", p.Variants, err)
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
		"a digest is needed":      {"--ztunnel-image", "registry.example/ztunnel:1.31"},
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

// TestBenchHandicap: a known delay is part of the plan, or refused by name.
func TestBenchHandicap(t *testing.T) {
	p, err := benchArgs("--handicap", "duomesh-l4=50us")
	if err != nil || p.Handicap == nil || p.Handicap.Variant != plan.L4 || p.Handicap.Delay != 50*time.Microsecond {
		t.Errorf("%+v, %v", p.Handicap, err)
	}
	for _, bad := range []string{"duomesh-l4", "duomesh-l4=soon", "dnat-1000=50us", "duomesh-l4=-1us", "duomesh-l4=1s"} {
		if _, err := benchArgs("--handicap", bad); err == nil || !strings.Contains(err.Error(), "handicap") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestBenchCommandRepeatsTheRun: what a report says makes the same plan, whatever was
// asked for.
func TestBenchCommandRepeatsTheRun(t *testing.T) {
	t.Setenv("ZTUNNEL_BIN", "")
	for _, args := range [][]string{
		{"--variants", "direct,duomesh-l4", "--seed", "3", "--blocks", "7"},
		{"--variants", "direct,dnat", "--modes", "fixed", "--seed", "3", "--placement", "both", "--payload", "4096", "--reply", "99", "--rate", "50.5", "--connections", "3", "--procs", "1"},
		{"--variants", "direct,ztunnel", "--ztunnel", "/proc/self/exe", "--seed", "9", "--warmup", "1s", "--duration", "2s", "--foreign", "0.5", "--repeats", "0", "--splits=false", "--placement", "same"},
		{"--variants", "direct,duomesh-l4", "--seed", "3", "--handicap", "duomesh-l4=50us"},
		{"--variants", "direct,ztunnel,ztunnel-plain", "--seed", "3", "--kubeconfig", "/proc/self/exe"},
	} {
		want, err := benchArgs(args...)
		if err != nil {
			t.Fatal(err)
		}
		s := result.Summary{Plan: want, Complete: true, Blocks: 7}
		said := strings.Fields(strings.NewReplacer(`"$ZTUNNEL_BIN"`, "/proc/self/exe", `"$KUBECONFIG"`, "/proc/self/exe").Replace(result.Command(s)))
		if slices.Contains(said, "--kubeconfig") && slices.Contains(said, "--ztunnel") {
			t.Errorf("%v: a cluster has its own ztunnel", said)
		}
		want.Absent = nil // what was left out is not asked for again
		got, err := benchArgs(said[3:]...)
		want.Blocks = 7
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\n%v: %v\n got %+v\nwant %+v", args, said, err, got, want)
		}
	}
}

// TestBenchListSaysWhatIsMissing names every variant and mode, and what cannot run here.
func TestBenchListSaysWhatIsMissing(t *testing.T) {
	f := benchFlags{plan: plan.Default()}
	var out bytes.Buffer
	if err := f.list(&out); err != nil {
		t.Fatal(err)
	}
	for _, v := range plan.Variants() {
		if !strings.Contains(out.String(), "│ "+string(v)+" ") {
			t.Errorf("%s is not there", v)
		}
	}
	for _, want := range []string{"NOT RUN: no ztunnel binary", "NOT RUN: no Envoy", "can run", "closed-250us", "bench --claims"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestBenchResumeNeedsARun(t *testing.T) {
	for want, args := range map[string][]string{"one run directory is needed": nil, "no such file": {"/nowhere"}} {
		cmd := newBenchResumeCmd()
		cmd.SetArgs(args)
		cmd.SetOut(new(bytes.Buffer))
		cmd.SetErr(new(bytes.Buffer))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

const (
	// glance is how long tests look at an idle machine: none of them asks what was seen.
	glance = 50 * time.Millisecond
	// short is a pass that still has requests enough to be followed.
	short = 250 * time.Millisecond
)

// tiny is a whole run in a few seconds: every variant and mode, two blocks.
func tiny() plan.Plan {
	p := plan.Default()
	p.Blocks, p.Duration, p.Warmup, p.Seed = 2, 150*time.Millisecond, 50*time.Millisecond, 42
	p.Splits = false                 // their scenarios have tests of their own
	p.ForeignLimit, p.Repeats = 1, 0 // other tests may run beside it
	p.Variants = []plan.Variant{plan.Direct, plan.DirectAA, plan.DNAT, plan.DNAT1000, plan.L4}
	return p
}

// TestTinyRun goes the whole way on simulated pods and looks at every file.
func TestTinyRun(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	out := t.TempDir()
	path, s, err := Run(t.Context(), Config{Plan: tiny(), IdleLook: glance, PassTime: short, Out: out, Open: OpenNetsim, Judge: ProbeJudge})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Complete || s.Blocks != 2 {
		t.Errorf("complete %v (%s), %d whole blocks", s.Complete, s.Reason, s.Blocks)
	}
	for _, g := range s.Groups {
		if len(g.Rows) != len(tiny().Variants) || g.Floor == nil {
			t.Errorf("%s %s: %d rows, floor %v", g.Mode, g.Measure, len(g.Rows), g.Floor)
		}
		for _, r := range g.Rows {
			if r.Errors > 0 || r.P50 <= 0 || r.ClientCPU <= 0 || r.ServerCPU <= 0 || r.PacketsPerRequest < 1.5 {
				t.Errorf("%s %s %s: %+v", g.Mode, g.Measure, r.Variant, r)
			}
		}
	}
	for _, c := range s.Checks {
		t.Logf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
	}
	for _, name := range []string{"every request was answered by 200", "server saw the client's connections", "duomesh-l4 redirected every connection"} {
		requirePass(t, s, name)
	}
	for _, v := range tiny().Variants {
		requirePass(t, s, "judge: cross/newconn/"+string(v))
	}
	steady := 0
	for _, c := range s.Counted {
		if c.Reason != "" {
			t.Errorf("%s was not counted: %s", c.Cell, c.Reason)
		}
		if c.Mode.KeepAlive() {
			steady++
			if c.Setup.Runs == 0 || c.Steady.Runs != 0 || c.Requests == 0 {
				t.Errorf("%s: programs ran %d times until connected, %d times in %d requests after", c.Cell, c.Setup.Runs, c.Steady.Runs, c.Requests)
			}
		} else if c.Steady.Runs < uint64(c.Connections) {
			t.Errorf("%s: %d program runs for %d connections", c.Cell, c.Steady.Runs, c.Connections)
		}
	}
	if steady != 3 {
		t.Errorf("%d keep-alive modes were counted, want 3", steady)
	}
	requireCalls(t, s)
	requirePasses(t, s)
	requireSameAgain(t, path)
	if link, err := os.Readlink(filepath.Join(out, "latest")); err != nil || link != filepath.Base(path) {
		t.Errorf("latest leads to %q, %v", link, err)
	}
}

// requirePasses: every variant was followed in both modes, each request whole, and
// connected under the judge's eyes; short connections went to one service and to many.
func requirePasses(t *testing.T, s result.Summary) {
	t.Helper()
	variants := len(tiny().Variants)
	if len(s.Breakdowns) != 2*variants || len(s.Connects) != variants || len(s.Reuse) != 2 {
		t.Errorf("%d breakdowns, %d connects, %d of port reuse", len(s.Breakdowns), len(s.Connects), len(s.Reuse))
	}
	for _, b := range s.Breakdowns {
		sum := 0.0
		for _, p := range b.Parts {
			sum += p.Micros
		}
		if b.Reason != "" || b.Requests < 20 || b.Hops != 0 || sum <= 0 || len(b.Path) < 3 || b.Path[len(b.Path)-1].Role != "client" {
			t.Errorf("%s: %+v", b.Cell, b)
		}
	}
	for _, c := range s.Connects {
		if c.Connections == 0 || c.Decided <= 0 || c.OnWire < c.Decided || c.Established < c.OnWire || c.Handshakes != 0 {
			t.Errorf("%s: %+v", c.Cell, c)
		}
	}
	for i, r := range s.Reuse {
		if want := []int{1, manyServices}[i]; r.Services != want || r.Reason != "" || r.Errors > 0 || r.Connections == 0 || r.Refused > 0 {
			t.Errorf("%+v", r)
		}
	}
}

// requireCalls: each pod writes and reads once per request, in every variant.
func requireCalls(t *testing.T, s result.Summary) {
	t.Helper()
	if len(s.Called) != 3*len(tiny().Variants) {
		t.Errorf("system calls of %d cells, want %d", len(s.Called), 3*len(tiny().Variants))
	}
	for _, c := range s.Called {
		if c.Reason != "" || c.Requests == 0 || c.PerRequest() < 4 {
			t.Errorf("%s: %.2f system calls in each of %d requests, %v %s", c.Cell, c.PerRequest(), c.Requests, c.Calls, c.Reason)
		}
	}
}

func requirePass(t *testing.T, s result.Summary, name string) {
	t.Helper()
	for _, c := range s.Checks {
		if c.Name == name {
			if c.Verdict != "pass" {
				t.Errorf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
			}
			return
		}
	}
	t.Errorf("no check %q", name)
}

// requireSameAgain removes what can be made again, makes it, and compares.
func requireSameAgain(t *testing.T, path string) {
	t.Helper()
	derived := []string{"summary.json", "summary.md", "report.html", "bench.txt"}
	first := map[string][]byte{}
	for _, name := range derived {
		b, err := os.ReadFile(filepath.Join(path, name))
		if err != nil {
			t.Fatal(err)
		}
		first[name] = b
		if err := os.Remove(filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if !json.Valid(first["summary.json"]) {
		t.Error("summary.json is no JSON")
	}
	if _, err := Recompute(path); err != nil {
		t.Fatal(err)
	}
	for _, name := range derived {
		b, err := os.ReadFile(filepath.Join(path, name))
		if err != nil || !bytes.Equal(b, first[name]) {
			t.Errorf("%s is not the same when made again (%v)", name, err)
		}
	}
	run, err := record.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, trial := range run.Trials {
		for _, f := range []string{trial.Samples, trial.Fortio} {
			if info, err := os.Stat(filepath.Join(path, f)); err != nil || info.Size() == 0 {
				t.Errorf("%s: raw file %s: %v", trial, f, err)
			}
		}
	}
}

// TestInterruptedRunSaysSo stops a run in its first block.
func TestInterruptedRunSaysSo(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	ctx, cancel := context.WithCancel(t.Context())
	p := tiny()
	p.Variants = []plan.Variant{plan.Direct}
	stop := &stopAfter{n: 3, cancel: cancel}
	path, s, err := Run(ctx, Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: OpenNetsim, Progress: stop})
	if err != nil {
		t.Fatal(err)
	}
	if s.Complete || s.Verdict != "inconclusive" || s.Verdict.ExitCode() != 3 {
		t.Errorf("complete %v, verdict %s", s.Complete, s.Verdict)
	}
	if _, err := os.Stat(filepath.Join(path, "summary.json")); err != nil {
		t.Error(err)
	}
}

// runAt are the facts of a run.
func runAt(t *testing.T, path string) result.Run {
	t.Helper()
	run, err := record.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// stopAfter cancels a run after some trials.
type stopAfter struct {
	n      int
	cancel context.CancelFunc
}

func (s *stopAfter) Stage(string) {}
func (s *stopAfter) Done()        {}

func (s *stopAfter) Trial(result.Trial, Step) {
	if s.n--; s.n == 0 {
		s.cancel()
	}
}

// TestJudgeRefusesAnotherWay is the negative control of the judged pass: plain
// DNAT is not what a socket redirect looks like, and no mesh is not DNAT.
func TestJudgeRefusesAnotherWay(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	p := tiny()
	p.Variants = []plan.Variant{plan.Direct, plan.DNAT}
	w, err := OpenNetsim(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := plan.Cell{Placement: plan.Cross, Mode: plan.NewConn, Variant: plan.DNAT}
	site, err := w.Site(c)
	if err != nil {
		t.Fatal(err)
	}
	for via, want := range map[scenario.Via]report.Verdict{
		scenario.ViaDNAT: report.Pass, scenario.ViaSocket: report.Fail,
	} {
		site.Via = via
		checks, err := judgeSite(t.Context(), site, p, c, ProbeJudge)
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range checks.Checks {
			t.Logf("held against %s: %s: %s", via, check.Verdict, check.Detail)
			if check.Verdict != want {
				t.Errorf("DNAT held against %s: %s", via, check.Verdict)
			}
		}
	}
}

package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// loopback is a World of plain processes on this machine: it needs no root.
type loopback struct {
	address string
	port    uint16
	redirects
}

func openLoopback(t *testing.T) func(context.Context, plan.Plan) (World, error) {
	return func(context.Context, plan.Plan) (World, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		w := &loopback{address: l.Addr().String(), port: l.Addr().(*net.TCPAddr).AddrPort().Port()}
		return w, l.Close()
	}
}

func (w *loopback) Site(c plan.Cell) (Site, error) {
	s := Site{Address: w.address, ServerPort: w.port, Client: process{}, Server: process{}, Via: scenario.ViaNone}
	if c.Variant == plan.L4 {
		s.Engine = &w.redirects
	}
	return s, nil
}

func (w *loopback) Close() error { return nil }

// redirects is an engine that redirects nothing.
type redirects struct{ n uint64 }

func (r *redirects) Redirected() (uint64, error)        { return r.n, nil }
func (r *redirects) Programs() (result.Programs, error) { return result.Programs{}, nil }

// process is a pod that is not one. Its CPU time stands in for a cgroup's.
type process struct{}

func (process) Start(ctx context.Context, name string, stdin, stdout *os.File) (Process, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Stdin, cmd.Stdout = []string{name}, stdin, stdout
	return child{cmd}, cmd.Start()
}

func (process) CPU() (time.Duration, error)        { return time.Duration(time.Now().UnixNano() / 100), nil }
func (process) Handle() (scenario.PodHandle, bool) { return scenario.PodHandle{}, false }

type child struct{ *exec.Cmd }

func (c child) Stop(context.Context) {
	if err := c.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err)
	}
}

func quick() plan.Plan {
	p := tiny()
	p.Duration, p.Warmup = 50*time.Millisecond, 0
	p.Variants, p.Modes = []plan.Variant{plan.Direct, plan.DirectAA}, []plan.Mode{plan.Closed}
	return p
}

func TestDisturbedTrialsAreRepeated(t *testing.T) {
	p := quick()
	p.ForeignLimit, p.Repeats = 0, 2 // no trial is quiet enough
	path, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: openLoopback(t)})
	if err != nil {
		t.Fatal(err)
	}
	run, err := record.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	// 2 blocks, 2 variants, each tried once and twice more.
	if len(run.Trials) != 12 || s.Noise.Repeated != 8 || s.Blocks != 2 {
		t.Errorf("%d trials, %d repeated, %d blocks", len(run.Trials), s.Noise.Repeated, s.Blocks)
	}
	for _, kept := range run.Trials {
		for _, other := range run.Trials {
			if kept.Kept && other.Block == kept.Block && other.Cell == kept.Cell && other.Rest() < kept.Rest() {
				t.Errorf("%s was kept, %s is quieter", kept, other)
			}
		}
	}
}

// TestEngineThatDoesNothingIsFound is the negative control of the redirect
// check: all answers are 200, but the engine moved no connection.
func TestEngineThatDoesNothingIsFound(t *testing.T) {
	p := quick()
	p.Variants = []plan.Variant{plan.Direct, plan.L4}
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: openLoopback(t)})
	if err != nil {
		t.Fatal(err)
	}
	if s.Verdict != report.Fail || s.Verdict.ExitCode() != 1 {
		t.Errorf("verdict %s", s.Verdict)
	}
	for _, c := range s.Checks {
		if failed := c.Verdict == report.Fail; failed != (c.Name == "duomesh-l4 redirected every connection") {
			t.Errorf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
		}
	}
}

// TestBudgetSetsTheBlocks: after 2 s of building and 4 blocks in 8 s, another
// block takes 2 s more.
func TestBudgetSetsTheBlocks(t *testing.T) {
	p := plan.Default()
	for _, c := range []struct {
		budget                time.Duration
		blocks, min           int
		wantAnother, mayAgain bool
	}{
		{budget: 13 * time.Second, min: 1, wantAnother: true, mayAgain: true},
		{budget: 11 * time.Second, min: 1, mayAgain: true},
		{budget: 11 * time.Second, min: 5, wantAnother: true},
		{budget: time.Second, blocks: 5, min: 6, wantAnother: true, mayAgain: true},
		{budget: time.Hour, blocks: 4, min: 6, mayAgain: true},
	} {
		p.Budget, p.Blocks, p.MinBlocks = c.budget, c.blocks, c.min
		r := &runner{
			Config: Config{Plan: p}, began: time.Now().Add(-10 * time.Second), first: time.Now().Add(-8 * time.Second),
			trials: 4 * p.Cells(), spent: 8 * time.Second,
		}
		if got := r.another(5); got != c.wantAnother {
			t.Errorf("%+v: another block: %v", c, got)
		}
		if got := r.mayRepeat(5, 1); got != c.mayAgain {
			t.Errorf("%+v: a repeat in block 5: %v", c, got)
		}
		if left := r.left(4, p.Cells()); left < 0 || left > c.budget && c.blocks == 0 && c.min == 1 {
			t.Errorf("%+v: %v left", c, left)
		}
	}
}

func TestFailedRunKeepsItsFacts(t *testing.T) {
	broken := errors.New("no room")
	open := func(context.Context, plan.Plan) (World, error) { return nil, broken }
	path, s, err := Run(t.Context(), Config{Plan: quick(), IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: open})
	if !errors.Is(err, broken) || s.Complete || !strings.Contains(s.Reason, "no room") || path == "" {
		t.Errorf("path %q, complete %v, reason %q, error %v", path, s.Complete, s.Reason, err)
	}
}

func TestBadPlanMakesNothing(t *testing.T) {
	out := t.TempDir()
	p := quick()
	p.Variants = nil
	if _, _, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: out}); err == nil {
		t.Error("a plan without variants was run")
	}
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestProgressCanBeRead(t *testing.T) {
	var b strings.Builder
	for _, p := range []Progress{Lines{Out: &b, Cells: 4}, NewBar(io.Discard, 4)} {
		p.Stage("building")
		p.Trial(result.Trial{Block: 2, Attempt: 2, Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Fixed, Variant: plan.L4}},
			Step{Order: 3, Foreign: 0.125, Left: 90 * time.Second})
		p.Done()
	}
	if got := b.String(); !strings.Contains(got, "block 2, 3 of 4: cross/fixed/duomesh-l4 (again, attempt 2)") ||
		!strings.Contains(got, "12.5 %; about 1m30s of trials left") {
		t.Errorf("progress says %q", got)
	}
}

func TestMachineCounters(t *testing.T) {
	now, err := parseIdle("cpu  1 2 3 400 5 6 7 8 0 0\ncpu0 1 2 3 200 5 6 7 8 0 0\ncpu1 1 2 3 200 5 6 7 8 0 0\nintr 5\n")
	if err != nil || now.idle != 4050*time.Millisecond || now.steal != 80*time.Millisecond || now.cores != 2 {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err := parseIdle("intr 5\n"); err == nil {
		t.Error("no processors were accepted")
	}
	cpu, err := parseUsage([]byte("usage_usec 1500\nuser_usec 1000\n"))
	if err != nil || cpu != 1500*time.Microsecond {
		t.Errorf("%v, %v", cpu, err)
	}
	if _, err := parseUsage([]byte("user_usec 1000\n")); err == nil {
		t.Error("cpu.stat without usage_usec was accepted")
	}
	e := environment()
	if e.Kernel == "" || e.Cores < 1 || e.Go == "" {
		t.Errorf("environment %+v", e)
	}
}

// TestResumedRunIsWhole stops a run in the middle of a block, cuts its last line as a
// kill would, and goes on: no trial is made twice, and the order is that of the plan.
func TestResumedRunIsWhole(t *testing.T) {
	p := quick()
	p.Modes = []plan.Mode{plan.Closed, plan.NewConn}
	ctx, cancel := context.WithCancel(t.Context())
	c := Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: openLoopback(t), Progress: &stopAfter{n: 3, cancel: cancel}}
	path, s, err := Run(ctx, c)
	if err != nil || s.Complete {
		t.Fatalf("%v, complete %v", err, s.Complete)
	}
	file, err := os.OpenFile(path+"/results.jsonl", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(`{"schema":"duomesh.bench.tri`); err != nil || file.Close() != nil {
		t.Fatal(err)
	}
	before, err := record.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Progress, c.Plan = nil, plan.Plan{} // the run has its own
	again, s, err := Resume(t.Context(), c, path)
	if err != nil || again != path || !s.Complete || s.Blocks != 2 {
		t.Fatalf("%s: %v, complete %v (%s), %d blocks", again, err, s.Complete, s.Reason, s.Blocks)
	}
	run, err := record.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Trials) < 2 || len(run.Trials) != p.Cells()*2 || len(run.Resumed) != 1 {
		t.Errorf("%d trials before, %d after, resumed %v", len(before.Trials), len(run.Trials), run.Resumed)
	}
	for i, trial := range run.Trials {
		if want := p.Block(1 + i/p.Cells())[i%p.Cells()]; trial.Cell != want {
			t.Errorf("trial %d is %s, want %s", i, trial.Cell, want)
		}
		if i < len(before.Trials) && !trial.Start.Equal(before.Trials[i].Start) {
			t.Errorf("trial %d was made again", i)
		}
	}
	if s.Elapsed < before.Elapsed() {
		t.Errorf("%v altogether, %v before", s.Elapsed, before.Elapsed())
	}
	if _, _, err := Resume(t.Context(), c, path); err == nil || !strings.Contains(err.Error(), "complete") {
		t.Errorf("a whole run was gone on with: %v", err)
	}
}

// TestOnlyTheSameBuildGoesOn: what another kernel or build measures is another run.
func TestOnlyTheSameBuildGoesOn(t *testing.T) {
	head := result.Head{Started: record.Started(), Plan: quick(), Environment: environment()}
	head.Environment.Revision = "another"
	dir, err := record.Create(t.TempDir(), head)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Resume(t.Context(), Config{Open: openLoopback(t)}, dir.Path()); err == nil || !strings.Contains(err.Error(), "revision: another and ") {
		t.Errorf("%v", err)
	}
}

// TestOtherProgramsDoNotGoOn: what another Envoy or ztunnel measures is another run.
func TestOtherProgramsDoNotGoOn(t *testing.T) {
	program := func(says string) string {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho version: "+says+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := quick()
	p.Variants = []plan.Variant{plan.Direct, plan.L7, plan.Ztunnel}
	of := func(envoy, ztunnel string) map[string]string {
		all, err := Tools{Envoy: envoy, Ztunnel: ztunnel}.Programs(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	envoy, ztunnel := program("a/1.40/RELEASE"), program("one")
	was := of(envoy, ztunnel)
	if got := was["Envoy"]; !strings.HasPrefix(got, "a/1.40/RELEASE, sha256 ") || !strings.HasPrefix(was["ztunnel"], "version: one, sha256 ") {
		t.Errorf("programs %v", was)
	}
	head := result.Head{Started: record.Started(), Plan: quick(), Environment: Config{Programs: was}.environment()}
	for want, is := range map[string]map[string]string{
		"Envoy: a/1.40/RELEASE, sha256 ": of(program("a/1.41/RELEASE"), ztunnel),
		"ztunnel: version: one, sha256 ": of(envoy, ""),
	} {
		dir, err := record.Create(t.TempDir(), head)
		if err != nil {
			t.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			t.Fatal(err)
		}
		c := Config{IdleLook: glance, PassTime: short, Open: openLoopback(t), Programs: is}
		if _, _, err := Resume(t.Context(), c, dir.Path()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "kernel") {
			t.Errorf("with %v instead of %v: %v", is, was, err)
		}
		c.Programs = of(envoy, ztunnel)
		if _, s, err := Resume(t.Context(), c, dir.Path()); err != nil || !s.Complete {
			t.Errorf("with the same programs: complete %v, %v", s.Complete, err)
		}
	}
	direct := quick()
	if all, err := (Tools{Envoy: envoy, Ztunnel: ztunnel}).Programs(t.Context(), direct); err != nil || len(all) > 0 {
		t.Errorf("programs of a plan that needs none: %v, %v", all, err)
	}
}

// unfair is a World whose mesh does not keep a weight.
type unfair struct {
	*loopback
	count int
}

func (u unfair) Split(_ context.Context, name string, _ uint64) report.Result {
	r := report.Result{Scenario: name, Verdict: report.Pass, Connections: 8000}
	r.Add(scenario.CheckSplit("client", map[string]float64{"v1": .9, "v2": .1}, map[string]int{"v1": 8000 - u.count, "v2": u.count})...)
	return r
}

// TestWrongSplitIsFound: 85/15 where 90/10 is declared fails the run and is named.
func TestWrongSplitIsFound(t *testing.T) {
	for count, want := range map[int]report.Verdict{810: report.Pass, 1200: report.Fail} {
		p := quick()
		p.Variants, p.Splits = []plan.Variant{plan.Direct, plan.L4}, true
		_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: func(ctx context.Context, p plan.Plan) (World, error) {
			w, err := openLoopback(t)(ctx, p)
			return unfair{w.(*loopback), count}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.Checks, func(c report.Check) bool { return c.Name == "split of duomesh-l4" })
		if i < 0 || s.Checks[i].Verdict != want || len(s.Splits) != 2 || s.Splits[1].Count != count {
			t.Errorf("%d of 8000: %+v, splits %+v", count, s.Checks, s.Splits)
		}
		if want == report.Fail && s.Verdict != report.Fail {
			t.Errorf("the run is %s", s.Verdict)
		}
	}
}

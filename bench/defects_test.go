package bench

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
)

// Each validity check is broken once by real processes: the tests of this file, and
//
//	TestEngineThatDoesNothingIsFound, TestWrongSplitIsFound  whole runs of plain processes
//	TestTLSOffIsFound, TestRedirectTakenAwayIsFound          node proxies on simulated pods
//	TestJudgeRefusesAnotherWay                               the judge on simulated pods
//
// TestEachCheckCanFail of package result spoils the recorded facts one by one.

// spoilt is a world in which some sites are not what they should be. It hides what
// else a world can do, so that a run is short.
type spoilt struct {
	World
	site  func(plan.Cell) (Site, error)
	close func() error
}

func (s spoilt) Site(c plan.Cell) (Site, error) { return s.site(c) }

func (s spoilt) Close() error {
	if s.close != nil {
		if err := s.close(); err != nil {
			return err
		}
	}
	return s.World.Close()
}

// failed names the checks that did not hold.
func failed(s result.Summary) []string {
	var names []string
	for _, c := range s.Checks {
		if c.Verdict == report.Fail {
			names = append(names, c.Name)
		}
	}
	return names
}

// fixedRate is one short block of direct at a rate.
func fixedRate(perSecond float64) plan.Plan {
	p := tiny()
	p.Variants, p.Modes, p.Blocks = []plan.Variant{plan.Direct}, []plan.Mode{plan.Fixed}, 1
	p.Duration, p.Load.PerSecond = 300*time.Millisecond, perSecond
	return p
}

// TestRateThatNobodyKeepsIsFound: on one connection a request every 5 µs is not to be
// had, and slots are missed.
func TestRateThatNobodyKeepsIsFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	_, s, err := Run(t.Context(), Config{Plan: fixedRate(200_000), IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: OpenNetsim})
	if err != nil {
		t.Fatal(err)
	}
	if got := failed(s); !slices.Contains(got, "fixed: the schedule was kept") || s.Verdict.ExitCode() != 1 {
		t.Errorf("failed: %v, verdict %s: %+v", got, s.Verdict, s.Checks)
	}
	if r := s.Groups[0].Row(plan.Direct); r.Slots != 60_000 || r.Missed <= r.Slots/2 {
		t.Errorf("%d of %d slots were missed", r.Missed, r.Slots)
	}
}

// TestBusyClientIsFound: something else in the client's pod takes its processors. The
// same load without it is the control.
func TestBusyClientIsFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	const check, limit = "fixed: the client is not saturated", 0.7
	for _, isBusy := range []bool{false, true} {
		calm := func() error { return nil }
		c := Config{Plan: fixedRate(50), IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: func(ctx context.Context, p plan.Plan) (w World, err error) {
			if w, err = OpenNetsim(ctx, p); err != nil || !isBusy {
				return w, err
			}
			w, calm, err = withBusyClient(t, ctx, w)
			return w, err
		}}
		// What is measured is one trial: the passes after it need not suffer.
		c.Progress = &stopAfter{n: 1, cancel: func() {
			if err := calm(); err != nil {
				t.Error(err)
			}
		}}
		path, s, err := Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		share := clientShare(t, path)
		t.Logf("busy %v: the client used %.2f of a core; failed: %v", isBusy, share, failed(s))
		if isBusy && share < limit {
			t.Skipf("NOT RUN: others left a busy client %.2f of a core, %.2f are needed", share, limit)
		}
		if got := slices.Contains(failed(s), check); got != isBusy || isBusy && s.Verdict.ExitCode() != 1 {
			t.Errorf("a client that is busy (%v): failed %v, verdict %s", isBusy, failed(s), s.Verdict)
		}
	}
}

// withBusyClient starts a program in the client's pod that does nothing but work, until
// calm is called or the world closed.
func withBusyClient(t *testing.T, ctx context.Context, w World) (_ World, calm func() error, err error) {
	t.Helper()
	site, err := w.Site(plan.Cell{Placement: plan.Cross, Mode: plan.Fixed, Variant: plan.Direct})
	if err != nil {
		return nil, nil, err
	}
	in, stop, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	proc, err := site.Client.Start(ctx, busyName, in, nil)
	if err != nil {
		return nil, nil, err
	}
	calm = sync.OnceValue(func() error { return errors.Join(stop.Close(), proc.Wait()) })
	return spoilt{World: w, site: w.Site, close: calm}, calm, nil
}

// clientShare is the part of a core that the client's pod used in the run's trials.
func clientShare(t *testing.T, path string) float64 {
	t.Helper()
	var cpu, wall float64
	for _, trial := range runAt(t, path).Trials {
		cpu, wall = cpu+trial.CPU.Client.Seconds(), wall+trial.Wall.Seconds()
	}
	return cpu / wall
}

// TestShamRowsAreFound is a whole run on real pods in which two rows are not what they
// say: the pods of duomesh-l4 are not in the mesh, and the proxies of hboneref speak
// plaintext. All requests are answered, and both are found by name.
func TestShamRowsAreFound(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	p := tiny()
	p.Variants, p.Modes = []plan.Variant{plan.Direct, plan.L4, plan.HBONERef}, []plan.Mode{plan.NewConn}
	p.Blocks = 1
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Judge: ProbeJudge, Open: func(ctx context.Context, p plan.Plan) (World, error) {
		p.Variants = append(slices.Clone(p.Variants), plan.TCPRedirect)
		w, err := OpenNetsim(ctx, p)
		return spoilt{World: w, site: func(c plan.Cell) (Site, error) { return sham(w, c) }}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.Checks {
		t.Logf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
	}
	want := []string{"duomesh-l4 redirected every connection", "judge: cross/newconn/duomesh-l4", "on the wire: cross/newconn/hboneref"}
	if got := failed(s); !slices.Equal(got, want) || s.Verdict != report.Fail {
		t.Errorf("failed: %q, want %q; verdict %s", got, want, s.Verdict)
	}
	requirePass(t, s, "every request was answered by 200")
}

func sham(w World, c plan.Cell) (Site, error) {
	site, err := w.Site(c)
	if err != nil {
		return site, err
	}
	switch c.Variant {
	case plan.L4:
		c.Variant = plan.Direct
		bare, err := w.Site(c)
		bare.Engine, bare.Via = site.Engine, site.Via
		return bare, err
	case plan.HBONERef:
		c.Variant = plan.TCPRedirect
		return w.Site(c)
	}
	return site, nil
}

// hung is a pod in which one kind of process never answers.
type hung struct {
	process
	pid *int
}

func (h hung) Start(ctx context.Context, _ string, stdin, stdout *os.File) (Process, error) {
	p, err := h.process.Start(ctx, hungName, stdin, stdout)
	if err == nil {
		*h.pid = p.(child).Process.Pid
	}
	return p, err
}

// TestHungChildFailsItsTrial by name, and is gone: the run does not wait for it.
func TestHungChildFailsItsTrial(t *testing.T) {
	p := quick()
	p.Patience = 200 * time.Millisecond
	pid := 0
	_, s, err := Run(t.Context(), Config{Plan: p, IdleLook: glance, PassTime: short, Out: t.TempDir(), Open: func(ctx context.Context, p plan.Plan) (World, error) {
		w, err := openLoopback(t)(ctx, p)
		return spoilt{World: w, site: func(c plan.Cell) (Site, error) {
			site, err := w.Site(c)
			site.Server = hung{pid: &pid}
			return site, err
		}}, err
	}})
	if err == nil || s.Complete {
		t.Fatal("a run with a process that hangs is complete")
	}
	for _, want := range []string{"block 1: cross/closed/", load.ServerName + `: ended before "ready"`, "it hangs: not over after 300ms"} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(s.Reason, want) {
			t.Errorf("%q is not in %q, reason %q", want, err, s.Reason)
		}
	}
	if err := syscall.Kill(pid, 0); pid == 0 || err != syscall.ESRCH {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

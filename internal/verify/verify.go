// Package verify runs one scenario on a world while the judge watches, and says
// whether every connection went where it was declared to go. Three witnesses
// are held against each other: the client, the server and the kernel.
package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// Options says where and how scenarios run.
type Options struct {
	// World names the world in results, for example "netsim".
	World string
	// Open makes a fresh world for each run.
	Open scenario.Opener
	// Seed drives every random choice of the harness. The kernel's own random
	// choices are not seeded: that is what the shares are judged on.
	Seed uint64
	// Repeat runs each scenario so many times; below 1 means once.
	Repeat int
	// Ahead is how many worlds more are opened, watched and taken down while the loads
	// of one scenario run: that is mostly waiting for the kernel. Loads never run
	// beside those of another scenario.
	Ahead int
	// Evidence is the directory where the connections of runs that did not
	// pass are written; empty means nowhere.
	Evidence string
	// JudgeRing is the size of the judge's event ring in bytes; 0 takes the
	// judge's default.
	JudgeRing int
	// By names the providers that the judge is to use; empty: the best that there
	// are. Second names those of a second judge, which watches the same and must
	// come to the same verdicts; empty: there is none.
	By, Second []string
	// Done is told of each run as it ends; nil means nobody.
	Done func(report.Result)
	// Progress is told how far loads are that take long; nil means nobody.
	Progress func(Progress)
	// Log is handed to the judge; nil discards.
	Log *slog.Logger

	// turn is held while loads run; nil: there is nobody else.
	turn chan struct{}
}

// All runs the scenarios, each Repeat times, in an order shuffled by the seed,
// and returns the results in the order they were run. A cancelled context ends
// it early: what was not run is listed as not run.
func All(ctx context.Context, scenarios []scenario.Scenario, o Options) []report.Result {
	rng := rand.New(rand.NewPCG(o.Seed, 0))
	repeat := max(o.Repeat, 1)
	results := make([]report.Result, repeat*len(scenarios))
	var order []int
	o.turn = make(chan struct{}, 1)
	var done sync.Mutex
	if tell := o.Progress; tell != nil {
		o.Progress = func(p Progress) {
			done.Lock()
			defer done.Unlock()
			tell(p)
		}
	}
	var group errgroup.Group
	group.SetLimit(1 + max(o.Ahead, 0))
	for n := range results {
		run := 1 + n/len(scenarios)
		if n%len(scenarios) == 0 {
			order = rng.Perm(len(scenarios))
		}
		s, seed := scenarios[order[n%len(scenarios)]], rng.Uint64()
		group.Go(func() error {
			r := one(ctx, s, o, run, seed)
			results[n] = r
			done.Lock()
			defer done.Unlock()
			if o.Done != nil && r.Reason != interrupted {
				o.Done(r)
			}
			return nil
		})
	}
	// What went wrong is in the results.
	_ = group.Wait()
	return results
}

// interrupted is the reason of runs that a cancelled context left out.
const interrupted = "interrupted"

func one(ctx context.Context, s scenario.Scenario, o Options, run int, seed uint64) report.Result {
	if ctx.Err() != nil {
		return report.Result{
			Scenario: s.Name, World: o.World, Run: run, Seed: o.Seed,
			Verdict: report.NotRun, Reason: interrupted,
		}
	}
	r := Run(ctx, s, o, seed)
	r.Run, r.Seed = run, o.Seed
	return r
}

// meshError is a fault in what is judged: the mesh did not take what was
// declared.
type meshError struct{ error }

// Unwrap returns the cause.
func (m meshError) Unwrap() error { return m.error }

// Run runs one scenario once. A world that cannot express the scenario gives
// NotRun; a mesh that does not take what is declared, Fail; a fault of the
// harness itself, Inconclusive; each with the reason.
func Run(ctx context.Context, s scenario.Scenario, o Options, seed uint64) report.Result {
	start, waited := time.Now(), time.Duration(0)
	r := report.Result{Scenario: s.Name, World: o.World, Verdict: report.Pass}
	err := s.Validate()
	if err == nil {
		waited, err = run(ctx, s, o, seed, &r)
	}
	var mesh meshError
	switch {
	case errors.Is(err, scenario.ErrNotExpressible):
		r.Verdict, r.Reason = report.NotRun, err.Error()
	case errors.As(err, &mesh) && ctx.Err() == nil:
		r.Verdict, r.Reason = report.Fail, err.Error()
	case err != nil:
		r.Verdict, r.Reason = r.Verdict.Worse(report.Inconclusive), err.Error()
	case r.Connections == 0:
		r.Verdict, r.Reason = report.Inconclusive, "no connection was judged"
	}
	r.Elapsed = time.Since(start) - waited
	return r
}

// run returns how long it waited for the loads of others, too.
func run(ctx context.Context, s scenario.Scenario, o Options, seed uint64, r *report.Result) (waited time.Duration, err error) {
	world, err := o.Open(ctx, s.Topology)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", o.World, err)
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	if a, other := world.(scenario.Adapter); other {
		if s, err = a.Adapt(s); err == nil {
			err = s.Validate()
		}
		if err != nil {
			return 0, fmt.Errorf("adapt to %s: %w", o.World, err)
		}
	}
	if err := world.Apply(ctx, s.Objects); err != nil {
		return 0, meshError{fmt.Errorf("apply the first objects: %w", err)}
	}
	g := gatherer{world: world, options: o, scenario: s, topology: s.Topology, known: map[uint64]bool{}}
	for i, ph := range s.Phases {
		e, err := g.gather(ctx, ph)
		if err != nil {
			return g.waited, fmt.Errorf("phase %d: %w", i+1, err)
		}
		judged, checks := e.judge()
		checks = append(checks, e.compare(checks, o.Second)...)
		if len(s.Phases) > 1 {
			checks = inPhase(i+1, checks)
		}
		r.Connections += judged
		r.Providers = e.ledger.providers()
		r.Add(checks...)
		if r.Verdict != report.Pass {
			kept := e.write(o.Evidence, fmt.Sprintf("%s.%016x.phase%d", s.Name, seed, i+1))
			return g.waited, errors.Join(e.whyCut(ctx, i+1), kept)
		}
	}
	return g.waited, nil
}

// whyCut is why the loads of a phase ended before their time; nil: they did not.
func (e *evidence) whyCut(ctx context.Context, phase int) error {
	switch {
	case e.cutShort == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("phase %d: interrupted; what was seen until then is judged", phase)
	}
	return fmt.Errorf("phase %d: %w", phase, e.cutShort)
}

func inPhase(n int, checks []report.Check) []report.Check {
	for i := range checks {
		checks[i].Name = fmt.Sprintf("phase %d: %s", n, checks[i].Name)
	}
	return checks
}

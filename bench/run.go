package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// Config is what a run is given.
type Config struct {
	Plan plan.Plan
	// Out is the directory below which the run makes its own.
	Out string
	// Open makes the world; OpenNetsim is the usual one.
	Open func(ctx context.Context, p plan.Plan) (World, error)
	// Judge looks at every variant after the timed pass; nil leaves it out, and
	// the summary says so.
	Judge Judge
	// Programs are the foreign programs that Open uses, as Tools.Programs has them: a
	// run that is resumed must have the same.
	Programs map[string]string
	// Progress hears of every step; nil hears nothing.
	Progress Progress
	// IdleLook is how long the machine is looked at before the first trial; zero is long
	// enough to see programs that work in bursts, as those of a cluster do.
	IdleLook time.Duration
	// PassTime is the length of a trial of the passes after the timed one; zero is half a
	// second.
	PassTime time.Duration
}

// Progress hears how far a run is. Its methods are never called during a trial.
type Progress interface {
	// Stage is said in words.
	Stage(text string)
	// Trial: a trial is over.
	Trial(t result.Trial, s Step)
	// Done: no more will come.
	Done()
}

// Step is where in the run a trial stood.
type Step struct {
	// Order is its place in the block, from 1.
	Order int
	// Foreign is the share of the machine that others used.
	Foreign float64
	// Left is an estimate of the time until the end of the timed pass.
	Left time.Duration
}

// Run carries out a plan and writes its directory, whose path it returns with
// the summary. A run that ctx ends, or that fails, leaves its directory too,
// marked incomplete: the summary of a run that was ended is no error.
func Run(ctx context.Context, c Config) (path string, s result.Summary, err error) {
	if err := c.Plan.Validate(); err != nil {
		return "", s, err
	}
	head := result.Head{Started: record.Started(), Plan: c.Plan, Environment: c.environment()}
	dir, err := record.Create(c.Out, head)
	if err != nil {
		return "", s, err
	}
	r := &runner{Config: c, dir: dir, began: time.Now(), quiet: result.Quiet{}, done: map[slot]bool{}}
	return r.carryOut(ctx)
}

// environment is that of the machine, with the programs that were brought.
func (c Config) environment() result.Environment {
	e := environment()
	e.Programs = c.Programs
	return e
}

// Resume goes on with a run that was interrupted, with its own plan: whole trials are
// kept, and its passes are made when the last is there. What ran until then must have
// been this build on this machine, with the same foreign programs.
func Resume(ctx context.Context, c Config, path string) (_ string, s result.Summary, err error) {
	was, err := record.Load(path)
	if err != nil {
		return path, s, err
	}
	if err := result.SamePlace(was.Head.Environment, c.environment()); err != nil {
		return path, s, fmt.Errorf("go on with %s: %w", path, err)
	}
	dir, was, err := record.Resume(path, record.Started())
	if err != nil {
		return path, s, err
	}
	c.Plan = was.Head.Plan
	elapsed := was.Elapsed()
	r := &runner{
		Config: c, dir: dir, began: time.Now().Add(-elapsed), quiet: result.Quiet{}, done: map[slot]bool{},
		trials: len(was.Trials), spent: elapsed, before: elapsed,
	}
	for _, t := range was.Trials {
		r.quiet.Learn(t)
		if t.Kept {
			r.done[slot{t.Block, t.Cell}] = true
		}
	}
	return r.carryOut(ctx)
}

func (r *runner) carryOut(ctx context.Context) (path string, s result.Summary, err error) {
	dir := r.dir
	end, failed := r.run(ctx)
	if err := errors.Join(dir.End(end), dir.Close()); err != nil {
		return dir.Path(), s, errors.Join(failed, err)
	}
	s, err = Recompute(dir.Path())
	if ctx.Err() != nil {
		failed = nil // ended on purpose: the summary says so
	}
	return dir.Path(), s, errors.Join(failed, err)
}

// slot is one cell of one block.
type slot struct {
	block int
	cell  plan.Cell
}

// runner is one run.
type runner struct {
	Config
	dir   *record.Dir
	world World
	began time.Time
	// first is when the timed pass began.
	first time.Time
	// trials and spent are what the timed pass has done, repeats included.
	trials int
	spent  time.Duration
	quiet  result.Quiet
	// done are the cells that a run had before it was resumed, before is what it had
	// taken.
	done   map[slot]bool
	before time.Duration
}

func (r *runner) say(text string) {
	if r.Progress != nil {
		r.Progress.Stage(text)
	}
}

// run carries out the passes; what it returns is whole also on error.
func (r *runner) run(ctx context.Context) (end result.End, err error) {
	defer func() {
		if r.Progress != nil {
			r.Progress.Done()
		}
		end.Elapsed = time.Since(r.began)
		end.Complete = err == nil
		if err != nil {
			end.Reason = err.Error()
		}
		if ctx.Err() != nil {
			end.Reason = "stopped before its end"
		}
	}()
	r.say("making the pods")
	if r.world, err = r.Open(ctx, r.Plan); err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, r.world.Close()) }()
	if end.IdleBusy, err = idleBusy(ctx, cmp.Or(r.IdleLook, idleLook)); err != nil {
		return end, err
	}
	if err := r.timed(ctx); err != nil {
		return end, err
	}
	if d, ok := r.world.(Described); ok {
		if end.Proxies, err = d.Describe(ctx); err != nil {
			return end, err
		}
	}
	pass := r.Plan
	pass.Duration = cmp.Or(r.PassTime, passDuration)
	r.say("judged pass: where do connections go?")
	if end.Checks, end.Connects, err = judged(ctx, r.world, pass, r.Judge); err != nil {
		return end, err
	}
	proofs, err := proved(ctx, r.world, pass)
	if end.Checks = append(end.Checks, proofs...); err != nil {
		return end, err
	}
	r.say("counted pass: how often do mesh programs run?")
	if end.Counted, err = counted(ctx, r.world, pass, enableStats); err != nil {
		return end, err
	}
	r.say("counted pass: how often do the pods call the kernel?")
	if end.Called, err = called(ctx, r.world, pass); err != nil {
		return end, err
	}
	r.say("followed pass: where does the time of a request go?")
	if end.Breakdowns, err = brokenDown(ctx, r.world, pass); err != nil {
		return end, err
	}
	r.say("shares: are weights kept?")
	var shares []report.Check
	end.Splits, shares = split(ctx, r.world, r.Plan)
	end.Checks = append(end.Checks, shares...)
	if ctx.Err() != nil {
		return end, ctx.Err()
	}
	r.say("short connections of one pod to several services")
	end.Reuse, err = reused(ctx, r.world, r.Plan)
	return end, err
}

// enableStats turns on BPF run-time statistics until the closer is closed
// (Linux 5.8, BPF_ENABLE_STATS).
func enableStats() (io.Closer, error) { return ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME)) }

// timed runs blocks until the plan's number is reached, or its budget spent.
func (r *runner) timed(ctx context.Context) error {
	r.first = time.Now().Add(-r.before)
	for n := 1; r.another(n); n++ {
		if r.Plan.UntilShown && n > r.Plan.MinBlocks && n%lookEvery == 1 {
			if decided, err := r.decided(); decided || err != nil {
				return err
			}
		}
		for i, cell := range r.Plan.Block(n) {
			if r.done[slot{n, cell}] {
				continue
			}
			if err := r.entry(ctx, n, i+1, cell); err != nil {
				return fmt.Errorf("block %d: %s: %w", n, cell, err)
			}
		}
	}
	return nil
}

// lookEvery is how many blocks are run between two looks at the targets. To stop
// when the figures look right would favour them; to stop when every interval is
// clear of its limit, either way, does so little, and the number of blocks is
// printed.
const lookEvery = 5

// decided says whether no statistical target is undecided any more.
func (r *runner) decided() (bool, error) {
	r.say("are the targets decided?")
	run, err := record.Load(r.dir.Path())
	if err != nil {
		return false, err
	}
	s, err := result.Summarise(run)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(s.Targets, func(t result.Target) bool { return t.Reach == stats.NotShown }), nil
}

// another says whether block n is to be run.
func (r *runner) another(n int) bool {
	if r.Plan.Blocks > 0 {
		return n <= r.Plan.Blocks
	}
	if n <= r.Plan.MinBlocks {
		return true
	}
	perBlock := time.Since(r.first) / time.Duration(n-1)
	return time.Since(r.began)+perBlock <= r.Plan.Budget
}

// left estimates how long the timed pass goes on.
func (r *runner) left(block, order int) time.Duration {
	if r.trials == 0 {
		return 0
	}
	per := r.spent / time.Duration(r.trials)
	blocks := r.Plan.Blocks
	if blocks == 0 {
		blocks = r.Plan.MinBlocks
		if byBudget := r.Plan.Budget - time.Since(r.began); block > blocks || byBudget > per*time.Duration(blocks*r.Plan.Cells()-r.trials) {
			return max(byBudget, 0)
		}
	}
	return per * time.Duration((blocks-block+1)*r.Plan.Cells()-order)
}

// mayRepeat: a repeat is made while the smallest number of blocks still fits
// into the budget without it.
func (r *runner) mayRepeat(block, order int) bool {
	if r.Plan.Blocks > 0 || r.trials == 0 {
		return true
	}
	must := (r.Plan.MinBlocks-block+1)*r.Plan.Cells() - order
	need := r.spent / time.Duration(r.trials) * time.Duration(max(must, 0)+1)
	return time.Since(r.began)+need <= r.Plan.Budget
}

// entry measures one cell of a block, again when others used the machine, and
// keeps the quietest attempt.
func (r *runner) entry(ctx context.Context, block, order int, cell plan.Cell) error {
	site, err := r.world.Site(cell)
	if err != nil {
		return err
	}
	var attempts []result.Trial
	quietest := 0
	for attempt := 1; ; attempt++ {
		t, err := r.measure(ctx, site, cell, block, order, attempt)
		if err != nil {
			return err
		}
		attempts = append(attempts, t)
		if t.Rest() < attempts[quietest].Rest() {
			quietest = attempt - 1
		}
		foreign := r.quiet.Foreign(t)
		r.quiet.Learn(t)
		if r.Progress != nil {
			r.Progress.Trial(t, Step{Order: order, Foreign: foreign, Left: r.left(block, order)})
		}
		if foreign < r.Plan.ForeignLimit || attempt > r.Plan.Repeats || !r.mayRepeat(block, order) {
			break
		}
	}
	attempts[quietest].Kept = true
	for _, t := range attempts {
		if err := r.dir.Trial(t); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) measure(ctx context.Context, site Site, cell plan.Cell, block, order, attempt int) (result.Trial, error) {
	start := time.Now()
	t, res, err := runTrial(ctx, site, r.Plan, cell)
	if err != nil {
		return t, err
	}
	t.Block, t.Order, t.Attempt = block, order, attempt
	r.trials++
	r.spent += time.Since(start)
	return t, r.dir.Keep(&t, res)
}

// Recompute makes the summary files of a run's directory from its recorded
// facts, and returns the summary.
func Recompute(path string) (result.Summary, error) {
	run, err := record.Load(path)
	if err != nil {
		return result.Summary{}, err
	}
	s, err := result.Summarise(run)
	if err != nil {
		return s, fmt.Errorf("summarise %s: %w", path, err)
	}
	return s, writeSummary(path, run, s)
}

// Compare holds two runs' directories against each other.
func Compare(older, newer string) (result.Comparison, error) {
	was, err := record.Load(older)
	if err != nil {
		return result.Comparison{}, err
	}
	is, err := record.Load(newer)
	if err != nil {
		return result.Comparison{}, err
	}
	return result.Compare(was, is)
}

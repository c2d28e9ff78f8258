package vmtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// Config says which kernels to run and where things are.
type Config struct {
	Kernels Matrix
	// Cache keeps kernels between runs. Out gets the evidence of this one.
	Cache, Out string
	// Go is the go command.
	Go string
	// Accel is KVM or TCG; empty tries KVM first.
	Accel Accel
	// Full runs every test and not only those that an emulated machine does in
	// seconds.
	Full bool
	// Only are the runs to make, by name, and then no controls; nil are all.
	Only []string
	// Budget limits what the verifier may process, by program.
	Budget Budget
	// Timeout bounds each machine; zero is an hour, or 3 hours where Full.
	Timeout time.Duration
	// Parallel is how many machines run at a time; zero is one per processor and one
	// more, as each waits now and then.
	Parallel int
	// Progress is where the reader follows.
	Progress io.Writer
}

// Report is what a run found.
type Report struct {
	Cases []testsum.Case
	// Kernels are the diagnoses of the machines that gave one, in the order of
	// the matrix.
	Kernels []Diagnosed
	// took is where the time of each machine went.
	took []took
}

// memoryMB is enough for the programs, which live in the initramfs, and for a
// cluster of pods.
const memoryMB = 2048

// Run runs all chosen kernels, some at a time. An error is one of the host; whatever a
// machine does wrong is a failed case.
func Run(ctx context.Context, c Config) (Report, error) {
	var report Report
	if c.Timeout == 0 {
		c.Timeout = time.Hour
		if c.Full {
			c.Timeout = 3 * time.Hour
		}
	}
	if c.Parallel == 0 {
		c.Parallel = runtime.NumCPU() + 1
	}
	c.Progress = &lines{w: c.Progress}
	r := &runner{Config: c, plan: plan(c.Full), files: map[string]string{}, clock: clockArgs()}
	r.fetch(ctx)
	if err := r.build(ctx); err != nil {
		return report, err
	}
	host, cases := r.host(ctx)
	report.Cases = append(report.Cases, cases...)
	if host != nil {
		report.Kernels = append(report.Kernels, *host)
	}
	found, err := r.all(ctx)
	for _, f := range found {
		report.Cases = append(report.Cases, f.cases...)
		if f.diagnosed != nil {
			report.Kernels = append(report.Kernels, *f.diagnosed)
		}
		if f.took.kernel != "" {
			report.took = append(report.took, f.took)
		}
	}
	report.Cases = append(report.Cases, c.Budget.stale(report.Kernels)...)
	return report, err
}

// found is what one kernel's machines have shown.
type found struct {
	cases     []testsum.Case
	diagnosed *Diagnosed
	took      took
}

// all runs the kernels, some at a time, those with the most runs first, so that no long
// one is left alone at the end; and the controls on the first of the matrix, beside them:
// these are idle but for their boots. The result is in the order of the matrix, whoever
// was first.
func (r *runner) all(ctx context.Context) ([]found, error) {
	all := make([]found, len(r.Kernels)+1)
	group, ctx := errgroup.WithContext(ctx)
	if len(r.Kernels) > 0 && r.Only == nil {
		group.Go(func() (err error) {
			all[len(r.Kernels)].cases, err = r.controls(ctx, r.Kernels[0])
			return err
		})
	}
	group.Go(func() error {
		machines, ctx := errgroup.WithContext(ctx)
		machines.SetLimit(r.Parallel)
		for _, i := range r.longestFirst() {
			machines.Go(func() (err error) {
				if all[i], err = r.kernel(ctx, r.Kernels[i]); err != nil {
					return fmt.Errorf("kernel %s: %w", r.Kernels[i].Name, err)
				}
				return nil
			})
		}
		return machines.Wait()
	})
	return all, group.Wait()
}

// longestFirst are the places of the kernels in the matrix, by the number of their runs.
func (r *runner) longestFirst() []int {
	var order []int
	for i := range r.Kernels {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(len(r.planFor(r.Kernels[b])), len(r.planFor(r.Kernels[a])))
	})
	return order
}

// runner runs the same programs in one machine after the other.
type runner struct {
	Config
	plan  []program
	init  string
	files map[string]string               // path in the machine → path on the host
	trees map[string]func() (Tree, error) // by kernel; waits

	// clock is what translated machines are told of their clock.
	clock string

	accelerating sync.Mutex // while it is found out how machines run
}

func (r *runner) kernel(ctx context.Context, k Kernel) (found, error) {
	dir := filepath.Join(r.Out, k.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return found{}, fmt.Errorf("make directory for evidence: %w", err)
	}
	tree, err := r.trees[k.Name]()
	if err != nil {
		return found{cases: []testsum.Case{failed(k, bootCase, err.Error())}}, ctx.Err()
	}
	if err := r.accelerate(ctx, tree); err != nil {
		return found{}, err
	}
	plan := r.planFor(k)
	if len(plan) == 0 {
		return found{cases: []testsum.Case{failed(k, bootCase, "there is nothing to run on it")}}, nil
	}
	jobs := jobsOf(plan)
	records, death, err := r.machine(ctx, k, tree, dir, jobs)
	if err != nil {
		return found{}, err
	}
	cases := []testsum.Case{bootResult(k, death)}
	got := results(jobs, records)
	j := judge{kernel: k, budget: r.Budget, records: records, progress: r.Progress, goCommand: r.Go}
	t := took{kernel: k.Name, boot: booted(records).Elapsed, events: map[string]uint64{}}
	for _, p := range plan {
		one := got[p.name]
		t.runs = append(t.runs, runTime{p.name, one.elapsed})
		r.say("%s: %s took %s", k.Name, p.name, one.elapsed.Round(100*time.Millisecond))
		cases = append(cases, j.run(ctx, p, one)...)
		t.count(one.output)
		if p.name == kernelRun {
			controls, told := j.refusals(one.output)
			cases = append(cases, controls...)
			r.control(k, told)
		}
	}
	if j.diagnosed != nil && r.Only == nil {
		controls, told := j.unkept(j.diagnosed)
		cases = append(cases, controls...)
		r.control(k, told)
	}
	cases = append(k.settle(cases), k.fires(plan, t.events)...)
	r.say("%s: %s", k.Name, testsum.Count(cases))
	return found{cases, j.diagnosed, t}, nil
}

// fetch begins to bring all kernels, while programs are built.
func (r *runner) fetch(ctx context.Context) {
	r.trees = map[string]func() (Tree, error){}
	for _, k := range r.Kernels {
		get := sync.OnceValues(func() (Tree, error) {
			start := time.Now()
			tree, err := Fetch(ctx, k.Source, r.Cache, r.Go)
			if err == nil {
				r.say("%s: brought in %s", k.Name, since(start))
			}
			return tree, err
		})
		r.trees[k.Name] = get
		go get()
	}
}

// needed are the files that some runs need: their programs, and what these start.
func (r *runner) needed(jobs []guest.Run) map[string]string {
	files := map[string]string{}
	for _, p := range beside {
		path := guest.TestDir + "/" + p.binary()
		files[path] = r.files[path]
	}
	for _, j := range jobs {
		files[j.Argv[0]] = r.files[j.Argv[0]]
	}
	return files
}

// chosen are the programs of the runs to make. The first one is always there: the host
// is diagnosed by it.
func (r *runner) chosen() []program {
	if r.Only == nil {
		return r.plan
	}
	return append(r.plan[:1:1], named(slices.Concat(r.plan[1:], shares()), r.Only)...)
}

// planFor is what runs on a kernel.
func (r *runner) planFor(k Kernel) []program {
	if r.Full {
		k.Runs = nil
	}
	all := append(slices.Clone(r.plan), more(k)...)
	if len(k.Runs) > 0 {
		all = named(all, k.Runs)
	}
	if r.Only != nil {
		all = named(all, r.Only)
	}
	return all
}

func named(all []program, names []string) []program {
	return slices.DeleteFunc(slices.Clone(all), func(p program) bool { return !slices.Contains(names, p.name) })
}

// ChooseRuns checks the names of runs.
func ChooseRuns(names []string) ([]string, error) {
	all := append(plan(false), more(Kernel{Runs: []string{briefRun, oneOfEachRun, evenRun, oddRun}, Promises: []string{
		kernel.BTF.Name, kernel.KprobeMulti.Name, kernel.Kprobe.Name, kernel.Fentry.Name,
	}})...)
	for _, name := range names {
		if len(named(all, []string{name})) == 0 {
			var known []string
			for _, p := range all {
				known = append(known, p.name)
			}
			return nil, fmt.Errorf("unknown run %q; the runs are %s", name, strings.Join(known, ", "))
		}
	}
	return names, nil
}

func jobsOf(plan []program) []guest.Run {
	var jobs []guest.Run
	for _, p := range plan {
		jobs = append(jobs, p.guestRun())
	}
	return jobs
}

// machine boots a kernel; its death is told apart from a fault of the host.
func (r *runner) machine(ctx context.Context, k Kernel, tree Tree, dir string, jobs []guest.Run) ([]guest.Record, *DeathError, error) {
	scratch, err := os.MkdirTemp(dir, "modules-")
	if err != nil {
		return nil, nil, fmt.Errorf("make directory for modules: %w", err)
	}
	defer os.RemoveAll(scratch)
	order, err := loadOrder(tree.Modules, k.Modules, scratch)
	if err != nil {
		return nil, &DeathError{Reason: err.Error(), Console: "none", Tail: "it was not booted"}, nil
	}
	initramfs := filepath.Join(dir, "initramfs")
	err = image{init: r.init, modules: order, files: r.needed(jobs), runs: jobs}.write(initramfs)
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(initramfs)
	start := time.Now()
	life, err := Machine{
		Tree: tree, Initramfs: initramfs, Accel: r.Accel, MemoryMB: memoryMB, Timeout: r.Timeout, Dir: dir, Args: r.args(),
	}.Run(ctx)
	boot := booted(life.Records)
	r.say("%s: Linux %s booted in %s and ran %s, %s of a processor", k.Name, boot.Data,
		boot.Elapsed.Round(100*time.Millisecond), since(start), life.CPU.Round(100*time.Millisecond))
	var death *DeathError
	if errors.As(err, &death) {
		return life.Records, death, nil
	}
	return life.Records, nil, err
}

// args are added to the command line of each kernel.
func (r *runner) args() string {
	if r.Accel == TCG {
		return r.clock
	}
	return ""
}

// accelerate decides once, with the first kernel, how machines run.
func (r *runner) accelerate(ctx context.Context, t Tree) error {
	r.accelerating.Lock()
	defer r.accelerating.Unlock()
	if r.Accel != "" {
		return nil
	}
	accel, why, err := chooseAccel(ctx, t, r.init, r.Out)
	if err != nil {
		return fmt.Errorf("try KVM: %w", err)
	}
	r.Accel = accel
	if why != "" {
		why = " (" + why + ")"
	}
	r.say("machines run by %s%s", accel, why)
	return nil
}

// lines is a writer that several machines' runs may share.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// say is for the reader alone.
func (r *runner) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Progress, "test-kernel: "+format+"\n", args...)
}

// control shows what controls were told.
func (r *runner) control(k Kernel, told []string) {
	for _, t := range told {
		r.say("%s: control: %s", k.Name, t)
	}
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// Judge is the independent observer of the judged pass. It watches the pods of
// a task from outside, lets the task's traffic run, and says what it saw; its
// checks join the run's own.
type Judge func(ctx context.Context, t JudgeTask) (Judgement, error)

// Judgement is what a judge says of one task.
type Judgement struct {
	Checks []report.Check
	// Connects is how the connections came to stand; nil where it does not say.
	Connects *result.Connects
}

// JudgeTask is one variant to judge.
type JudgeTask struct {
	// Name is placement/mode/variant, for the names of checks.
	Name string
	// Asked is the host:port that the client dials, ServerPort where the server
	// pod listens, Via how connections are expected to get there.
	Asked      string
	ServerPort uint16
	Via        scenario.Via
	// Client and Server are the pods; their descriptors are open for the task.
	Client, Server scenario.PodHandle
	// Proxy is the pod of the Envoy between them, when Via has one; ProxyPort is where
	// connections must arrive at it.
	Proxy     *scenario.PodHandle
	ProxyPort uint16
	// Captured: a node proxy in the client's pod takes its connections before any link,
	// and another hands them to the server.
	Captured bool
	// Drive makes a few hundred connections from client to server and returns
	// their number. It is to be called once.
	Drive func(ctx context.Context) (connections int64, err error)
}

// passWarmup is before a trial of a pass that looks at kept connections alone.
const passWarmup = 100 * time.Millisecond

// passDuration is the length of a trial of the passes after the timed one, unless a run
// says otherwise.
const passDuration = 500 * time.Millisecond

// judged lets the judge look at every variant once, on new connections.
func judged(ctx context.Context, w World, p plan.Plan, judge Judge) (checks []report.Check, connects []result.Connects, err error) {
	if judge == nil {
		return []report.Check{{Name: "judge", Verdict: report.NotRun, Detail: "NOT RUN: no judge was given to this run"}}, nil, nil
	}
	for _, c := range passCells(p, plan.NewConn) {
		site, err := w.Site(c)
		if err != nil {
			return checks, connects, err
		}
		found, err := judgeSite(ctx, site, p, c, judge)
		if ctx.Err() != nil {
			return checks, connects, ctx.Err()
		}
		if err != nil { // the measured figures stand, but nobody vouches for them
			found.Checks = []report.Check{{Name: "judge: " + c.String(), Verdict: report.Inconclusive, Detail: err.Error()}}
		}
		checks = append(checks, found.Checks...)
		if found.Connects != nil {
			found.Connects.Cell = c
			connects = append(connects, *found.Connects)
		}
	}
	return checks, connects, nil
}

func judgeSite(ctx context.Context, site Site, p plan.Plan, c plan.Cell, judge Judge) (Judgement, error) {
	client, ok := site.Client.Handle()
	server, ok2 := site.Server.Handle()
	if !ok || !ok2 {
		return Judgement{Checks: []report.Check{{Name: "judge: " + c.String(), Verdict: report.NotRun, Detail: "NOT RUN: the pods cannot be observed"}}}, nil
	}
	p.Warmup = 0 // a warm-up would connect unseen by the count
	task := JudgeTask{
		Name: c.String(), Asked: site.Address, ServerPort: site.ServerPort, Via: site.Via, Client: client, Server: server,
		Captured: site.Proxies != nil,
		Drive: func(ctx context.Context) (connections int64, err error) {
			t, _, err := runTrial(ctx, site, p, c)
			return t.Client.Connections, err
		},
	}
	if site.Proxy != nil {
		if proxy, ok := site.Proxy.Handle(); ok {
			task.Proxy, task.ProxyPort = &proxy, site.ProxyPort
		}
	}
	return judge(ctx, task)
}

// passCells is each variant once per placement, in one mode.
func passCells(p plan.Plan, m plan.Mode) []plan.Cell {
	var cells []plan.Cell
	for _, place := range p.Placements {
		for _, v := range p.Variants {
			cells = append(cells, plan.Cell{Placement: place, Mode: m, Variant: v})
		}
	}
	return cells
}

// counted runs each mode of the engine's variants once with BPF statistics on.
func counted(ctx context.Context, w World, p plan.Plan, enable func() (io.Closer, error)) (all []result.Counted, err error) {
	stats, err := enable()
	if err != nil {
		reason := fmt.Sprintf("this kernel gives no BPF statistics: %v", err)
		return notCounted(w, p, reason)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	p.Warmup = 0
	all, err = eachEngine(w, p, func(site Site, c plan.Cell) (result.Counted, error) {
		return count(ctx, site, p, c)
	})
	return all, errors.Join(err, ctx.Err())
}

func notCounted(w World, p plan.Plan, reason string) ([]result.Counted, error) {
	return eachEngine(w, p, func(_ Site, c plan.Cell) (result.Counted, error) {
		return result.Counted{Cell: c, Reason: reason}, nil
	})
}

func eachEngine(w World, p plan.Plan, f func(Site, plan.Cell) (result.Counted, error)) ([]result.Counted, error) {
	var all []result.Counted
	for _, m := range p.Modes {
		for _, c := range passCells(p, m) {
			site, err := w.Site(c)
			if err != nil {
				return all, err
			}
			if site.Engine == nil {
				continue
			}
			n, err := f(site, c)
			if err != nil {
				n = result.Counted{Cell: c, Reason: err.Error()}
			}
			all = append(all, n)
		}
	}
	return all, nil
}

// count reads the statistics when all connections stand, and again while
// requests still run: what lies between is the work per request, without
// connecting and closing.
func count(ctx context.Context, site Site, p plan.Plan, c plan.Cell) (n result.Counted, err error) {
	n.Cell = c
	pr, err := startPair(ctx, site, p, c.Mode)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, pr.close()) }()
	start, before, err := pr.counts()
	if err != nil {
		return n, err
	}
	var group errgroup.Group
	began, over := time.Now(), make(chan struct{})
	group.Go(func() error {
		defer close(over)
		return pr.client.Run()
	})
	stood, middle, err := pr.standing(ctx, over, start, int64(p.Spec(c.Mode, "").Threads))
	if err == nil {
		err = until(ctx, began.Add(p.Duration*3/4))
	}
	var late load.Counts
	var after result.Programs
	if err == nil {
		late, after, err = pr.counts()
	}
	if err := errors.Join(err, group.Wait()); err != nil {
		return n, err
	}
	n.Setup, n.Steady = middle.Sub(before), after.Sub(middle)
	n.Requests, n.Connections = late.Requests-stood.Requests, late.Connections-stood.Connections
	_, err = pr.client.Collect()
	return n, err
}

// counts asks the server first: the programs of all connections and requests that it
// has seen are then in the second answer, however long the first took.
func (p *pair) counts() (load.Counts, result.Programs, error) {
	c, err := p.server.Counts()
	if err != nil {
		return c, result.Programs{}, err
	}
	programs, err := p.site.Engine.Programs()
	return c, programs, err
}

// standing waits until every thread has been answered more than once: then all
// kept connections stand. A load that is over before is too short to be counted.
func (p *pair) standing(ctx context.Context, over <-chan struct{}, start load.Counts, threads int64) (load.Counts, result.Programs, error) {
	const perThread, poll = 4, 5 * time.Millisecond
	for {
		if err := until(ctx, time.Now().Add(poll)); err != nil {
			return load.Counts{}, result.Programs{}, err
		}
		ended := isOver(over)
		now, programs, err := p.counts()
		switch requests := now.Requests - start.Requests; {
		case err != nil || requests >= perThread*threads:
			return now, programs, err
		case ended:
			return now, programs, fmt.Errorf("the load was over after %d requests, %d are needed to see that its connections stand", requests, perThread*threads)
		}
	}
}

func isOver(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// until waits for a moment, or for ctx.
func until(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/admin"
	"github.com/duomesh/duomesh/internal/kernel"
)

// Agent is the agent of one node, between Open and Close.
type Agent struct {
	cfg     Config
	node    *dataplane.Node
	cgroup  cgroupID
	started time.Time
	state   *state
	pods    *pods
	delay   prometheus.Histogram
	// inherited: an agent before this one has left services in the engine.
	inherited bool

	enrol   *net.UnixListener
	servers []*server
	closers []io.Closer // newest last
}

// server is one HTTP server on its listener.
type server struct {
	listener net.Listener
	http     *http.Server
}

// Open takes over what an earlier agent left below Host.BPFFS, or starts anew,
// and listens. Nothing is answered before Run.
//
// Another agent of the same node is refused by the engine, which names it. On
// error what was there before Open is there after it, and works.
func Open(cfg Config) (_ *Agent, err error) {
	a := &Agent{cfg: cfg.withDefaults(), started: time.Now(), delay: newDelay()}
	if a.cfg.Admin != "" && !onLoopback(a.cfg.Admin) {
		return nil, fmt.Errorf("admin API at %s: it must be an address of the loopback, like 127.0.0.1:15200", a.cfg.Admin)
	}
	if a.cfg.ResetExisting {
		if err := kernel.EndSockets.Probe(); err != nil {
			return nil, fmt.Errorf("connections that are older than an enrolment cannot be ended on this kernel: %s: %w", kernel.EndSockets.Name, err)
		}
	}
	fresh := !dataplane.Pinned(a.cfg.Host.BPFFS)
	if a.node, err = dataplane.Open(a.cfg.Host, a.cfg.Engine); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.undo(fresh))
		}
	}()
	if a.inherited, err = holdsServices(a.node); err != nil {
		return nil, err
	}
	if a.cgroup, err = idOf(a.cfg.Host.Cgroup); err != nil {
		return nil, err
	}
	for _, file := range []string{a.cfg.EnrolSocket, a.cfg.State} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	a.state = newState(a.cfg, a.started)
	a.state.status.Applied.Inherited = a.node.Inherited()
	if a.pods, err = openPods(a.cfg, a.node); err != nil {
		return nil, err
	}
	a.closers = append(a.closers, a.pods)
	return a, a.listen()
}

// holdsServices reports whether the engine knows any, from an agent before.
func holdsServices(n *dataplane.Node) (bool, error) {
	all, err := n.Usage()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(u dataplane.Usage) bool { return u.Map == "frontends" && u.Used > 0 }), nil
}

func (a *Agent) undo(fresh bool) error {
	if !fresh {
		return a.Close()
	}
	err := a.closeAll()
	return errors.Join(err, a.node.Remove())
}

func (a *Agent) listen() (err error) {
	if a.enrol, err = listenEnrol(a.cfg.EnrolSocket); err != nil {
		return err
	}
	a.closers = append(a.closers, a.enrol)
	if err := a.serve("admin API", a.cfg.Admin, admin.NewHandler(adminNode{a})); err != nil {
		return err
	}
	return a.serve("metrics", a.cfg.Metrics, metricsHandler(a))
}

// Times of the HTTP servers. Requests are small; an answer may wait for a state.
const headerTime = 5 * time.Second

func (a *Agent) serve(what, address string, h http.Handler) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	s := &server{l, &http.Server{Handler: h, ReadHeaderTimeout: headerTime}}
	a.servers = append(a.servers, s)
	a.closers = append(a.closers, l)
	return nil
}

// Metrics returns where the metrics are served, "" when they are not; Admin the
// same of the admin API. They say which port was given for port 0.
func (a *Agent) Metrics() string { return a.addressOf(a.cfg.Metrics, len(a.servers)-1) }

// Admin returns where the admin API is served.
func (a *Agent) Admin() string { return a.addressOf(a.cfg.Admin, 0) }

func (a *Agent) addressOf(configured string, i int) string {
	if configured == "" {
		return ""
	}
	return a.servers[i].listener.Addr().String()
}

// Run applies updates and serves until ctx ends, then returns nil; the engine
// goes on. It returns an error when it cannot go on: the node's cgroup is gone.
// The channel may be closed: the last state then stays. Run is called once.
func (a *Agent) Run(ctx context.Context, updates <-chan Update) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, s := range a.servers {
		s.http.BaseContext = func(net.Listener) context.Context { return ctx }
		wg.Go(func() {
			if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				cancel(fmt.Errorf("serve at %s: %w", s.listener.Addr(), err))
			}
		})
	}
	wg.Go(func() { a.serveEnrol(ctx) })
	wg.Go(func() { a.follow(ctx, updates) })
	wg.Go(func() { a.audit(ctx) })
	wg.Go(func() { cancel(a.watch(ctx)) })
	<-ctx.Done()
	for _, s := range a.servers {
		s.http.Close() // requests in flight are cancelled with ctx
	}
	a.enrol.Close()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("node %s: %w", a.cfg.Host.Place.Node, err)
	}
	return nil
}

// watch looks after pods and the node's cgroup. It returns an error when the
// latter is gone.
func (a *Agent) watch(ctx context.Context) error {
	tick := time.NewTicker(a.cfg.Watch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !a.cgroup.at(a.cfg.Host.Cgroup.Name()) {
			err := fmt.Errorf("cgroup %s was removed: nothing is redirected any more", a.cfg.Host.Cgroup.Name())
			a.state.fail(err)
			return err
		}
		a.pods.tidy()
		a.pods.endStale()
	}
}

// quiet is how long nothing must have been applied before an audit follows a change:
// it reads all maps, and an update would have to wait for it.
const quiet = 500 * time.Millisecond

// audit compares kernel and intent now and then, and after changes, and repairs the
// kernel where they differ.
func (a *Agent) audit(ctx context.Context) {
	tick, settled := time.NewTicker(a.cfg.Audit), time.NewTimer(time.Hour)
	defer tick.Stop()
	defer settled.Stop()
	known := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.state.applied:
			settled.Reset(quiet)
			continue
		case <-tick.C:
		case <-settled.C:
		}
		if a.state.generation() == 0 {
			continue // what the kernel has is an earlier agent's: nothing to compare with
		}
		found, err := a.node.Repair()
		if len(found) > 0 {
			a.cfg.Log.Error("the kernel was not what was applied: somebody has changed it; it was made so again",
				"differences", len(found), "first", found[0].String(), "err", err)
		}
		a.state.audited(len(found), err)
		known = a.tidyMemory(known)
	}
}

// many workloads at once, as in the first state of a large mesh, leave memory behind
// that is not needed again.
const many = 10_000

// tidyMemory gives memory back to the machine when there are many more or fewer
// workloads than were known.
func (a *Agent) tidyMemory(known int) int {
	s, _ := a.state.applies()
	if n := len(s.Workloads); max(n-known, known-n) >= many {
		debug.FreeOSMemory()
		return n
	}
	return known
}

// Close lets go of the node. What is pinned goes on redirecting.
func (a *Agent) Close() error { return errors.Join(a.closeAll(), a.node.Close()) }

func (a *Agent) closeAll() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i].Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	a.closers = nil
	return errors.Join(errs...)
}

package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/scenario"
)

// waypoint is what runs in a pod that is a waypoint: the same duomesh-waypoint as on a
// real cluster, born in the pod.
type waypoint struct {
	cluster *Cluster
	pod     *pod
	dir     string // of the pod in the cluster's run directory
	client  *api.Client
	orders  orders

	starting sync.Mutex // one starts it at a time

	mu   sync.Mutex
	proc *Process // nil: none was started, or it was told to end
	told bool     // proc is killed by an action of a scenario: nobody need hear of it
}

// orders are where a waypoint gets its configuration from: a file, or an istiod.
type orders interface {
	// args and env are what the process is started with, beside what is the same for all.
	args() []string
	env() []string
	// put makes d what the waypoint is to have, and reports whether a process is to run
	// for it.
	put(ctx context.Context, d *desired) (run bool, err error)
	// has reports whether the waypoint has what was put last, and takes connections where
	// it is to; the error says why not, or, where it never will, what is wrong.
	has(ctx context.Context, c *api.Client) (done bool, err error)
	// settle is called when the waypoint has what was put, and again when every node has
	// it: then nobody is sent where the waypoint has left.
	settle(ctx context.Context, everywhere bool) (leave bool, err error)
	// lost is called when the process has ended that nobody here has told to.
	lost(ctx context.Context) error
}

// waypointLog is the name of its log in its directory.
const waypointLog = "waypoint.log"

// checkWaypoints reports why waypoints of a topology cannot be had.
func checkWaypoints(cfg Config, t scenario.Topology) error {
	if len(t.Waypoints()) == 0 {
		return nil
	}
	switch {
	case cfg.Waypoint == "":
		return fmt.Errorf("%w: waypoints: no duomesh-waypoint is at hand", scenario.ErrNotExpressible)
	case cfg.Envoy == "":
		return fmt.Errorf("%w: waypoints: no Envoy is at hand (make tools fetches one, ENVOY_BIN names yours)", scenario.ErrNotExpressible)
	case t.Mesh != scenario.Duomesh:
		return fmt.Errorf("%w: waypoints: nobody hands connections over in mesh %s", scenario.ErrNotExpressible, t.Mesh)
	}
	return nil
}

// openWaypoints makes the engines serve the waypoint pods, and starts what runs in them
// with an empty state.
func (c *Cluster) openWaypoints(ctx context.Context) error {
	for _, n := range c.nodes {
		for _, p := range n.pods {
			if !p.spec.Waypoint {
				continue
			}
			if err := n.mesh.serveWaypoint(p); err != nil {
				return fmt.Errorf("node %s: pod %s: %w", n.name, p.spec.Name, err)
			}
			dir := filepath.Join(nodeDir(c.cfg, n), p.spec.Name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("make directory of waypoint %s: %w", p.spec.Name, err)
			}
			w := &waypoint{cluster: c, pod: p, dir: dir, client: api.NewClient("unix:" + filepath.Join(dir, adminSocket))}
			w.orders = c.ordersOf(w)
			c.waypoints[p.spec.Name] = w
		}
	}
	return c.applyWaypoints(ctx, newDesired())
}

func (c *Cluster) ordersOf(w *waypoint) orders {
	if c.plane != nil {
		return &gatewayOrders{waypoint: w, stack: c.plane.stack}
	}
	return &fileOrders{waypoint: w}
}

func (c *Cluster) closeWaypoints() {
	for _, w := range c.waypoints {
		w.client.Close()
	}
}

func (c *Cluster) waypointOf(pod string) (*waypoint, error) {
	if w := c.waypoints[pod]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("%w: pod %s is no waypoint", scenario.ErrNotExpressible, pod)
}

// applyWaypoints gives every waypoint its state, and returns when its Envoy has it. One
// that was killed gets it when it is started.
func (c *Cluster) applyWaypoints(ctx context.Context, d *desired) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range c.waypoints {
		g.Go(func() error {
			return w.apply(ctx, d)
		})
	}
	return g.Wait()
}

func (w *waypoint) apply(ctx context.Context, d *desired) error {
	run, err := w.orders.put(ctx, d)
	if err != nil {
		return fmt.Errorf("waypoint %s: %w", w.pod.spec.Name, err)
	}
	if !run {
		return nil
	}
	w.mu.Lock()
	known := w.proc
	w.mu.Unlock()
	switch {
	case known == nil:
		return w.start(ctx)
	case known.ended():
		return nil // it was killed
	}
	return w.await(ctx, known)
}

// settleWaypoints ends what is no replica any more, once nobody is sent there.
func (c *Cluster) settleWaypoints(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range c.waypoints {
		g.Go(func() error {
			leave, err := w.orders.settle(ctx, true)
			if leave {
				w.end(ctx)
			}
			return err
		})
	}
	return g.Wait()
}

func (w *waypoint) args() []string {
	workers := max(w.cluster.cfg.Workers, 1)
	args := append([]string{w.cluster.cfg.Waypoint}, w.orders.args()...)
	args = append(args, "--dir", w.dir, "--envoy", w.cluster.cfg.Envoy, "--concurrency", strconv.Itoa(workers),
		"--node", w.pod.node.name, "--admin", "unix:"+filepath.Join(w.dir, adminSocket),
		"--codec", scenario.OriginalDst+","+scenario.ProxyV2)
	return append(args, w.cluster.cfg.WaypointArgs...)
}

// start starts the process, and returns when it has what was put last.
func (w *waypoint) start(ctx context.Context) error {
	w.starting.Lock()
	defer w.starting.Unlock()
	if w.running() != nil {
		return fmt.Errorf("waypoint %s: it runs already", w.pod.spec.Name)
	}
	log, err := os.OpenFile(filepath.Join(w.dir, waypointLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of waypoint %s: %w", w.pod.spec.Name, err)
	}
	defer log.Close()
	// It outlives the call.
	proc, err := w.cluster.Start(context.WithoutCancel(ctx), w.pod.spec.Name, Command{
		Argv: w.args(), Env: append([]string{"PATH=" + os.Getenv("PATH")}, w.orders.env()...), Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.proc, w.told = proc, false
	w.mu.Unlock()
	if err := w.await(ctx, proc); err != nil {
		return err
	}
	go w.watch(proc)
	return nil
}

// watch says so when the process ends that nobody here has told to.
func (w *waypoint) watch(proc *Process) {
	<-proc.done
	w.cluster.mu.Lock()
	closed := w.cluster.closed
	w.cluster.mu.Unlock()
	w.mu.Lock()
	lost := w.proc == proc && !w.told && !closed
	w.mu.Unlock()
	if !lost {
		return
	}
	log, name := w.cluster.cfg.Log, w.pod.spec.Name
	log.Error("the process of a waypoint ended, connections through it are refused", "pod", name,
		"error", proc.Wait(), "log", filepath.Join(w.dir, waypointLog))
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := w.orders.lost(ctx); err != nil {
		log.Warn("that it is not ready could not be said", "pod", name, "error", err)
	}
}

// hasEnded reports whether the process has ended without being told to.
func (w *waypoint) hasEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc != nil && w.proc.ended()
}

// running returns the process; nil when none runs.
func (w *waypoint) running() *Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proc == nil || w.proc.ended() {
		return nil
	}
	return w.proc
}

// unused reports whether no process was started, or it was told to end.
func (w *waypoint) unused() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc == nil
}

// kill ends the process and its Envoy by SIGKILL, and returns when they are dead.
func (w *waypoint) kill() error {
	proc := w.running()
	if proc == nil {
		return fmt.Errorf("waypoint %s: it does not run", w.pod.spec.Name)
	}
	w.mu.Lock()
	w.told = true
	w.mu.Unlock()
	if err := proc.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill waypoint %s: %w", w.pod.spec.Name, err)
	}
	<-proc.done
	return nil
}

// endTime bounds how long a waypoint may take to drain and to end.
const endTime = 15 * time.Second

// end lets the process drain and end, as kubelet does; one that runs too long is killed.
func (w *waypoint) end(ctx context.Context) {
	w.mu.Lock()
	proc := w.proc
	w.proc = nil
	w.mu.Unlock()
	if proc == nil || proc.Signal(syscall.SIGTERM) != nil {
		return // it has ended
	}
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case <-proc.done:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	proc.kill() // fails only when it has ended
	<-proc.done
}

// waypointTime bounds how long a waypoint may take to have what it is to have.
const waypointTime = 30 * time.Second

// await asks until the waypoint has what was put last.
func (w *waypoint) await(ctx context.Context, proc *Process) error {
	ctx, cancel := context.WithTimeout(ctx, waypointTime)
	defer cancel()
	go func() {
		select {
		case <-proc.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(agentPoll)
	defer tick.Stop()
	var why error
	for {
		done, err := w.orders.has(ctx, w.client)
		if done && err == nil {
			_, err = w.orders.settle(ctx, false)
			return err
		}
		if done {
			return fmt.Errorf("waypoint %s: %w", w.pod.spec.Name, err)
		}
		select {
		case <-ctx.Done():
			if proc.ended() {
				return fmt.Errorf("waypoint %s has ended: %w%s", w.pod.spec.Name, proc.Wait(), w.lastWords())
			}
			if why == nil {
				why = err
			}
			return fmt.Errorf("waypoint %s: %w: %w", w.pod.spec.Name, context.Cause(ctx), why)
		case <-tick.C:
			why = err // the last word may be that there is no time any more
		}
	}
}

func (w *waypoint) lastWords() string {
	data, err := os.ReadFile(filepath.Join(w.dir, waypointLog))
	if err != nil || len(data) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return ": " + lines[len(lines)-1]
}

// Forwarded implements scenario.Forwarder.
func (c *Cluster) Forwarded(ctx context.Context, pod string) (map[string]uint64, error) {
	w, err := c.waypointOf(pod)
	if err != nil {
		return nil, err
	}
	if w.unused() {
		return nil, nil
	}
	if w.running() == nil {
		return nil, fmt.Errorf("waypoint %s does not run%s", pod, w.lastWords())
	}
	return w.client.Forwarded(ctx)
}

var _ scenario.Forwarder = (*Cluster)(nil)

// WaypointStatus asks a waypoint for what it says of itself.
func (c *Cluster) WaypointStatus(ctx context.Context, pod string) (api.Status, error) {
	w, err := c.waypointOf(pod)
	if err != nil {
		return api.Status{}, err
	}
	return w.client.Status(ctx, "")
}

// WaypointConfig asks a waypoint for the configuration of its Envoy, in JSON.
func (c *Cluster) WaypointConfig(ctx context.Context, pod string) ([]byte, error) {
	w, err := c.waypointOf(pod)
	if err != nil {
		return nil, err
	}
	return w.client.Get(ctx, "/config")
}

// WaypointCounters asks a waypoint for the counters of its Envoy whose names match.
func (c *Cluster) WaypointCounters(ctx context.Context, pod, pattern string) (map[string]uint64, error) {
	w, err := c.waypointOf(pod)
	if err != nil {
		return nil, err
	}
	return w.client.Counters(ctx, pattern)
}

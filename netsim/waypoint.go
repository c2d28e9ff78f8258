package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/dataplane/source/file"
	"github.com/duomesh/duomesh/internal/scenario"
)

// waypoint is what runs in a pod that is a waypoint: the same duomesh-waypoint as on a
// real cluster, born in the pod, fed by a file.
type waypoint struct {
	cluster *Cluster
	pod     *pod
	dir     string // of the pod in the cluster's run directory
	client  *api.Client

	mu      sync.Mutex
	proc    *Process // nil: none was started
	writes  int
	version string // of the file as last written
	serves  bool   // a service goes through it
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
			c.waypoints[p.spec.Name] = w
			if err := w.write(newDesired()); err != nil {
				return fmt.Errorf("waypoint %s: %w", p.spec.Name, err)
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range c.waypoints {
		g.Go(func() error { return w.start(ctx) })
	}
	return g.Wait()
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
// that does not run gets it when it is started.
func (c *Cluster) applyWaypoints(ctx context.Context, d *desired) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range c.waypoints {
		g.Go(func() error {
			if err := w.write(d); err != nil {
				return fmt.Errorf("waypoint %s: %w", w.pod.spec.Name, err)
			}
			if proc := w.running(); proc != nil {
				return w.await(ctx, proc)
			}
			return nil
		})
	}
	return g.Wait()
}

func (w *waypoint) args() []string {
	workers := max(w.cluster.cfg.Workers, 1)
	return append([]string{
		w.cluster.cfg.Waypoint, "--source", "file:" + filepath.Join(w.dir, intentFile), "--name", waypointName(w.pod),
		"--dir", w.dir, "--envoy", w.cluster.cfg.Envoy, "--concurrency", strconv.Itoa(workers),
		"--node", w.pod.node.name, "--admin", "unix:" + filepath.Join(w.dir, adminSocket), "--drain", "0",
		"--codec", scenario.OriginalDst + "," + scenario.ProxyV2,
	}, w.cluster.cfg.WaypointArgs...)
}

// write replaces the waypoint's file. Each writing is a version of its own.
func (w *waypoint) write(d *desired) error {
	s := d.forWaypoint(w.pod)
	data, err := file.Marshal(s)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes++
	data = fmt.Appendf(data, "# written %d times\n", w.writes)
	path := filepath.Join(w.dir, intentFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	w.version = file.Version(data)
	w.serves = slices.ContainsFunc(s.Services, func(svc *intent.Service) bool { return svc.Waypoint != nil })
	return nil
}

// start starts the process, and returns when it has what its file says and takes
// connections.
func (w *waypoint) start(ctx context.Context) error {
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
		Argv: w.args(), Env: []string{"PATH=" + os.Getenv("PATH")}, Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.proc = proc
	w.mu.Unlock()
	return w.await(ctx, proc)
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

// kill ends the process and its Envoy by SIGKILL, and returns when they are dead.
func (w *waypoint) kill() error {
	proc := w.running()
	if proc == nil {
		return fmt.Errorf("waypoint %s: it does not run", w.pod.spec.Name)
	}
	if err := proc.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill waypoint %s: %w", w.pod.spec.Name, err)
	}
	<-proc.done
	return nil
}

// waypointTime bounds how long a waypoint may take to have what its file says.
const waypointTime = 30 * time.Second

// await asks until the waypoint has the file as last written and, when a service goes
// through it, takes connections.
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
	w.mu.Lock()
	version, serves := w.version, w.serves
	w.mu.Unlock()
	tick := time.NewTicker(agentPoll)
	defer tick.Stop()
	for {
		s, err := w.client.Status(ctx, version)
		switch {
		case err == nil && s.Source.Problem != "":
			return fmt.Errorf("waypoint %s: %s", w.pod.spec.Name, s.Source.Problem)
		case err == nil && (s.Ready || !serves):
			return nil
		case err == nil:
			err = errors.New("it waits for " + s.Waiting)
		}
		select {
		case <-ctx.Done():
			if proc.ended() {
				return fmt.Errorf("waypoint %s has ended: %w%s", w.pod.spec.Name, proc.Wait(), w.lastWords())
			}
			return fmt.Errorf("waypoint %s: %w: %w", w.pod.spec.Name, context.Cause(ctx), err)
		case <-tick.C:
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
	if w.running() == nil {
		return nil, fmt.Errorf("waypoint %s does not run%s", pod, w.lastWords())
	}
	counters, err := w.client.Counters(ctx, `^cluster\.inbound-vip\|[0-9]+\|(http|grpc).*upstream_rq_total$`)
	if err != nil {
		return nil, err
	}
	all := map[string]uint64{}
	for name, n := range counters {
		// "cluster.inbound-vip|80|http|host;.upstream_rq_total"
		if parts := strings.Split(name, "|"); len(parts) == 4 {
			host, _, _ := strings.Cut(parts[3], ";")
			service, _, _ := strings.Cut(host, ".")
			all[service] += n
		}
	}
	return all, nil
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

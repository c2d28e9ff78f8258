package netsim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/scenario/kube"
	"github.com/duomesh/duomesh/internal/traffic"
)

// Cluster is a simulated cluster. It implements scenario.World. Its methods may
// be called at the same time.
type Cluster struct {
	cfg     Config
	mesh    scenario.Mesh
	ipv6    bool
	run     *runDir
	cgroup  string         // directory of the whole cluster
	own     *clusterCgroup // the same; nil until it is made
	nodes   []*node
	pods    map[string]*pod
	vips    *vips
	started time.Time
	control *control
	plane   *ControlPlane // nil without one, and until it is joined

	servers servers
	witness traffic.Witness
	past    past
	// waypoints are those pods' processes, by pod; fixed once the cluster is open.
	waypoints map[string]*waypoint

	applying sync.Mutex // one Apply, Enrol, Leave at a time; owns what follows, and vips
	desired  *desired
	declared kube.Rendered
	unsure   bool // labels of pods may be other than declared

	mu      sync.Mutex
	closed  bool
	managed map[string]bool
	procs   map[*Process]struct{}

	closeOnce sync.Once
	closeErr  error
}

var errClosed = errors.New("the cluster is closed")

// closeTime bounds how long Close waits for processes to die.
const closeTime = 30 * time.Second

// parallel bounds how many pods are made at the same time.
const parallel = 4

var _ scenario.World = (*Cluster)(nil)

// Open sweeps what dead clusters left, builds the topology t and enrols its
// managed pods. It needs root and a cgroup2 mount. The caller closes the
// cluster; on error nothing of it is left.
func Open(ctx context.Context, cfg Config, t scenario.Topology) (_ *Cluster, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("netsim needs root to make network namespaces: %w", unix.EPERM)
	}
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c, err := newCluster(cfg, t)
	if err != nil {
		return nil, err
	}
	if err := Sweep(ctx, cfg.RunDir); err != nil {
		cfg.Log.Warn("what a dead cluster left could not be removed", "error", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open cluster %s: %w", cfg.ID, interrupted(ctx, err)), c.Close())
		}
	}()
	if c.run, err = cfg.claim(); err != nil {
		return nil, err
	}
	if err := c.build(ctx, t); err != nil {
		return nil, err
	}
	return c, nil
}

// interrupted is why something was not made: where somebody has changed his mind that
// alone, and not what it was that could then not be had any more.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return interruptedError{context.Cause(ctx)}
	}
	return err
}

// interruptedError is the word of who interrupted, and context.Canceled.
type interruptedError struct{ error }

// Unwrap returns both.
func (i interruptedError) Unwrap() []error { return []error{i.error, context.Canceled} }

// newCluster checks everything that can be checked before anything is made.
func newCluster(cfg Config, t scenario.Topology) (*Cluster, error) {
	if err := checkTopology(t); err != nil {
		return nil, err
	}
	if t.Agents && cfg.Agent == "" {
		return nil, fmt.Errorf("%w: agents as processes of their own: no duomesh-agent is at hand", scenario.ErrNotExpressible)
	}
	if err := cfg.checkPlane(t); err != nil {
		return nil, err
	}
	if err := checkWaypoints(cfg, t); err != nil {
		return nil, err
	}
	addrs, err := planAddrs(t, cfg.Pods)
	if err != nil {
		return nil, err
	}
	vips, err := newVIPs(cfg.VIPs, addrs)
	if err != nil {
		return nil, err
	}
	if cfg.ControlPlane != nil {
		vips.reserve("service kubernetes", firstVIPs()...)
	}
	cgroup, err := cgroupOf(cfg.ID)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, mesh: t.Mesh, ipv6: haveIPv6(), cgroup: cgroup, vips: vips, started: time.Now(),
		pods: map[string]*pod{}, managed: map[string]bool{}, procs: map[*Process]struct{}{},
		desired: newDesired(), waypoints: map[string]*waypoint{},
	}
	if c.mesh == "" {
		c.mesh = scenario.NoMesh
	}
	for i, n := range t.Nodes {
		for k, p := range n.Pods {
			c.pods[p.Name] = &pod{addrs: addrs[p.Name], more: moreAddrs(i+1, k, p)}
			c.pods[p.Name].limit(p.Family, c.ipv6)
			if len(c.pods[p.Name].families()) == 0 {
				return nil, fmt.Errorf("%w: pod %s is of IPv6 alone, which this kernel does not have", scenario.ErrNotExpressible, p.Name)
			}
		}
	}
	return c, nil
}

func (c *Cluster) build(ctx context.Context, t scenario.Topology) error {
	var err error
	if c.own, err = claimCgroup(c.cgroup, c.run.path); err != nil {
		return err
	}
	for i, spec := range t.Nodes {
		n, err := openNode(c, i+1, spec)
		c.nodes = append(c.nodes, n)
		if err != nil {
			return err
		}
		if err := c.buildPods(ctx, n, spec.Pods); err != nil {
			return err
		}
	}
	for i, n := range c.nodes {
		for _, m := range c.nodes[:i] {
			if err := m.connect(n); err != nil {
				return err
			}
		}
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	if err := c.openMeshes(ctx); err != nil {
		return err
	}
	if err := c.openWaypoints(ctx); err != nil {
		return err
	}
	if err := c.enrolManaged(ctx); err != nil {
		return err
	}
	if c.control, err = openControl(c); err != nil {
		return err
	}
	c.applying.Lock() // the control socket is open
	defer c.applying.Unlock()
	return c.saveState()
}

func (c *Cluster) buildPods(ctx context.Context, n *node, specs []scenario.Pod) error {
	n.pods = make([]*pod, len(specs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for k, spec := range specs {
		planned := c.pods[spec.Name]
		g.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			n.pods[k], err = openPod(n, k, spec, planned)
			return err
		})
	}
	err := g.Wait()
	n.pods = slices.DeleteFunc(n.pods, func(p *pod) bool { return p == nil })
	for _, p := range n.pods {
		c.pods[p.spec.Name] = p
	}
	return err
}

func (c *Cluster) enrolManaged(ctx context.Context) error {
	if c.mesh != scenario.Duomesh {
		return nil
	}
	for _, n := range c.nodes {
		for _, p := range n.pods {
			if !p.spec.Managed {
				continue
			}
			if err := c.Do(ctx, scenario.Enrol{Pod: p.spec.Name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ID returns the cluster's name on this machine.
func (c *Cluster) ID() string { return c.cfg.ID }

// Dir returns the cluster's run directory.
func (c *Cluster) Dir() string { return c.cfg.dir() }

func (c *Cluster) pod(name string) (*pod, error) {
	if p, ok := c.pods[name]; ok {
		return p, nil
	}
	return nil, unknownPod(name, slices.Collect(maps.Keys(c.pods)))
}

// Node is a view of one simulated node, for those who look at a mesh from
// outside or break it on purpose. The descriptors stay the cluster's, open
// until it is closed.
type Node struct {
	Name   string
	Netns  *os.File
	Cgroup *os.File
	// Own is the cgroup of the node's own processes.
	Own *os.File
	// BPFFS is where the node's engine pins; empty unless Config.Pinned.
	BPFFS string
	// Engine is the node's mesh engine; nil unless the mesh is Duomesh.
	Engine *dataplane.Node
}

// Node returns the view of a node by its name.
func (c *Cluster) Node(name string) (Node, error) {
	var names []string
	for _, n := range c.nodes {
		if n.name == name {
			v := Node{Name: name, Netns: n.space.ns, Cgroup: n.cgroup, Own: n.own, BPFFS: n.bpffs}
			v.Engine = engineOf(n.mesh)
			return v, nil
		}
		names = append(names, n.name)
	}
	return Node{}, fmt.Errorf("no node %q: there are %v", name, names)
}

// Close takes the cluster down: processes, engines, links, namespaces, cgroups,
// mounts and the run directory. It may be repeated.
func (c *Cluster) Close() error {
	c.closeOnce.Do(func() {
		if err := c.close(); err != nil {
			c.closeErr = fmt.Errorf("close cluster %s: %w", c.cfg.ID, err)
		}
	})
	return c.closeErr
}

// close goes from what uses to what is used: an engine is closed when no
// process can connect any more, a cgroup goes when no program is attached.
func (c *Cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	errs := []error{c.control.close()}
	c.mu.Lock()
	c.closed = true
	procs := slices.Collect(maps.Keys(c.procs))
	c.mu.Unlock()
	for _, n := range c.nodes {
		if a, is := n.mesh.(*agentMesh); is {
			a.dismiss()
		}
	}
	if c.own != nil {
		errs = append(errs, c.killAll(ctx, procs))
	}
	c.servers.close()
	errs = append(errs, c.part(ctx))
	c.closeWaypoints()
	for _, n := range slices.Backward(c.nodes) {
		errs = append(errs, n.close())
	}
	if c.own != nil {
		errs = append(errs, c.own.remove(ctx))
	}
	if c.run != nil {
		errs = append(errs, c.run.remove())
	}
	return errors.Join(errs...)
}

func (c *Cluster) killAll(ctx context.Context, procs []*Process) error {
	if err := killCgroup(c.cgroup); err != nil {
		return err
	}
	for _, p := range procs {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", p.PID(), ctx.Err())
		}
	}
	return nil
}

// StartOnNode runs a program of a node's own, a node proxy for example: it is born
// in the node's namespace and in the cgroup Node.Own. It ends with ctx, and at the
// latest with the cluster.
func (c *Cluster) StartOnNode(ctx context.Context, name string, command Command) (*Process, error) {
	n, err := c.Node(name)
	if err != nil {
		return nil, err
	}
	proc, err := startIn(ctx, n.Netns, n.Own, command)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	return proc, c.adopt(proc)
}

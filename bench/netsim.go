package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/bench/handicap"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// Every variant's cluster has this shape: a client on each node, so that one of
// them is beside the server.
const (
	serverPod   = "server"
	clientCross = "client-a"
	clientSame  = "client-b"
	serviceName = "bench"
	servicePort = 80
	serverPort  = 8080
	// proxyPod is the Envoy of the variants that have one, and exposedPort where it takes
	// connections of its own.
	proxyPod    = "waypoint"
	exposedPort = 18080
	// proxyWorkers is the number of Envoy's workers.
	proxyWorkers = 2
)

// simulated is one cluster per variant, all up at once. A cluster of its own
// gives each variant its own client and server pods, and keeps rules and
// programs of one away from the others; that direct and direct-aa differ in
// nothing shows how much the choice of cluster alone can do.
type simulated struct {
	tools    Tools
	clusters map[plan.Variant]*netsim.Cluster
	sites    map[plan.Cell]Site
	programs []*programs
	meshes   map[plan.Variant]*ambient.Mesh
	// tunnelled are the Envoys between node proxies.
	tunnelled []*tunnelled
	handicaps []*handicap.Handicap
}

// OpenNetsim is Tools.Open without tools.
func OpenNetsim(ctx context.Context, p plan.Plan) (World, error) { return Tools{}.Open(ctx, p) }

// Open makes a World of simulated clusters. It needs root. The caller closes it.
func (t Tools) Open(ctx context.Context, p plan.Plan) (_ World, err error) {
	w := &simulated{
		tools: t, clusters: map[plan.Variant]*netsim.Cluster{}, sites: map[plan.Cell]Site{}, meshes: map[plan.Variant]*ambient.Mesh{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	for _, v := range p.Variants {
		if err := w.open(ctx, v, p); err != nil {
			return nil, fmt.Errorf("cluster of %s: %w", v, err)
		}
	}
	return w, nil
}

func (w *simulated) open(ctx context.Context, v plan.Variant, p plan.Plan) error {
	s := shapeOf(v)
	cfg := netsim.Config{}
	if s.proxied() {
		cfg.Waypoint, cfg.Envoy, cfg.Workers = w.tools.Waypoint, w.tools.Envoy, proxyWorkers
		cfg.WaypointArgs = []string{"--expose", fmt.Sprintf("%d=default/%s:%d", exposedPort, serviceName, servicePort)}
	}
	c, err := netsim.Open(ctx, cfg, topology(s))
	if err != nil {
		return err
	}
	w.clusters[v] = c
	if s.services > 0 {
		if err := c.Apply(ctx, services(s)); err != nil {
			return err
		}
	}
	if v.Traits().Redirect {
		if err := w.capture(ctx, c, v, p); err != nil {
			return err
		}
	}
	if h := p.Handicap; h != nil && h.Variant == v {
		if err := w.handicap(c, h.Delay); err != nil {
			return err
		}
	}
	for place, client := range map[plan.Placement]string{plan.Cross: clientCross, plan.Same: clientSame} {
		site, err := w.site(c, s, client)
		if err != nil {
			return err
		}
		if m := w.meshes[v]; m != nil {
			site.Proxies = proxies{cluster: c, mesh: m, variant: v, client: client}
		}
		for _, m := range p.Modes {
			w.sites[plan.Cell{Placement: place, Mode: m, Variant: v}] = site
		}
		// The passes use this mode whether or not the plan has it.
		w.sites[plan.Cell{Placement: place, Mode: plan.NewConn, Variant: v}] = site
	}
	return nil
}

// handicap delays what the clients of a cluster send.
func (w *simulated) handicap(c *netsim.Cluster, delay time.Duration) error {
	for _, name := range []string{clientCross, clientSame} {
		pod, err := c.Pod(name)
		if err != nil {
			return err
		}
		for _, l := range pod.Links {
			if !l.InPod {
				continue
			}
			h, err := handicap.Open(l.Netns, l.Ifindex, delay)
			if err != nil {
				return fmt.Errorf("pod %s: %w", name, err)
			}
			w.handicaps = append(w.handicaps, h)
		}
	}
	return nil
}

func (w *simulated) site(c *netsim.Cluster, s shape, client string) (Site, error) {
	target := scenario.Target{Pod: serverPod, Port: serverPort, Family: scenario.IPv4}
	switch {
	case s.dialled():
		target = scenario.Target{Pod: proxyPod, Port: exposedPort, Family: scenario.IPv4}
	case s.services > 0:
		target = scenario.Target{Service: serviceName, Port: servicePort, Family: scenario.IPv4}
	}
	address, err := c.Resolve(target)
	if err != nil {
		return Site{}, err
	}
	from, err := c.Pod(client)
	if err != nil {
		return Site{}, err
	}
	to, err := c.Pod(serverPod)
	if err != nil {
		return Site{}, err
	}
	site := Site{
		Address: address.String(), ServerPort: serverPort, Via: s.via,
		Client: simulatedPod{c, from}, Server: simulatedPod{c, to},
	}
	if s.proxied() || s.tunnelled {
		proxy, err := c.Pod(proxyPod)
		if err != nil {
			return Site{}, err
		}
		site.Proxy, site.ProxyPort = simulatedPod{c, proxy}, exposedPort
		switch {
		case s.tunnelled:
			site.ProxyPort = ambient.HBONEPort
		case s.via == scenario.ViaWaypoint:
			site.ProxyPort = scenario.HandOffPort
		}
	}
	if s.mesh != scenario.Duomesh || s.via == scenario.ViaProxy {
		return site, nil
	}
	node, err := c.Node(from.Node)
	if err != nil {
		return Site{}, err
	}
	progs, err := openPrograms(from.Cgroup, to.Cgroup)
	if err != nil {
		return Site{}, err
	}
	w.programs = append(w.programs, progs)
	site.Engine = engine{node, progs, intent.Redirect}
	if s.via == scenario.ViaWaypoint {
		site.Engine = engine{node, progs, intent.RedirectWaypoint}
	}
	return site, nil
}

// Site implements World.
func (w *simulated) Site(c plan.Cell) (Site, error) {
	site, ok := w.sites[c]
	if !ok {
		return Site{}, fmt.Errorf("no site for %s", c)
	}
	return site, nil
}

// Others implements Many.
func (w *simulated) Others(c plan.Cell) ([]string, error) {
	var all []string
	for _, name := range manyNames() {
		a, err := w.clusters[c.Variant].Resolve(scenario.Target{Service: name, Port: servicePort, Family: scenario.IPv4})
		if err != nil {
			return nil, err
		}
		all = append(all, a.String())
	}
	return all, nil
}

// Close implements World.
func (w *simulated) Close() error {
	var errs []error
	for _, p := range w.programs {
		errs = append(errs, p.close())
	}
	for _, h := range w.handicaps {
		errs = append(errs, h.Close())
	}
	for _, t := range w.tunnelled {
		errs = append(errs, t.close())
	}
	for v, m := range w.meshes {
		if err := m.Close(); err != nil {
			errs = append(errs, fmt.Errorf("mesh of %s: %w", v, err))
		}
	}
	var group errgroup.Group
	for _, c := range w.clusters {
		group.Go(c.Close)
	}
	return errors.Join(append(errs, group.Wait())...)
}

// simulatedPod is a pod of a cluster.
type simulatedPod struct {
	cluster *netsim.Cluster
	handle  scenario.PodHandle
}

// Start implements Pod.
func (p simulatedPod) Start(ctx context.Context, name string, stdin, stdout *os.File) (Process, error) {
	proc, err := p.cluster.Start(ctx, p.handle.Name, netsim.Command{
		Argv: []string{name}, Path: "/proc/self/exe", Stdin: stdin, Stdout: stdout,
	})
	if err != nil {
		return nil, err
	}
	return proc, nil
}

// CPU implements Pod.
func (p simulatedPod) CPU() (time.Duration, error) { return cgroupCPU(p.handle.Cgroup) }

// Handle implements Pod.
func (p simulatedPod) Handle() (scenario.PodHandle, bool) { return p.handle, true }

// engine is the mesh of a client's node, and its programs at both ends.
type engine struct {
	node     netsim.Node
	programs *programs
	// exit is where the variant's connections must leave the program.
	exit intent.Exit
}

// Redirected implements Engine.
func (e engine) Redirected() (uint64, error) {
	exits, err := e.node.Engine.Exits()
	return exits[e.exit], err
}

// Programs implements Engine.
func (e engine) Programs() (result.Programs, error) { return e.programs.work() }

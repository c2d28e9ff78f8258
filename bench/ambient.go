package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/ambient/standin"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// The nodes and the captured pods of a cluster.
var (
	nodeNames    = []string{"a", "b"}
	capturedPods = []string{clientCross, clientSame, serverPod}
)

// capture puts a node proxy on each node of a cluster and all its pods behind
// them.
func (w *simulated) capture(ctx context.Context, c *netsim.Cluster, v plan.Variant, p plan.Plan) error {
	program := ambient.Program{Binary: "/proc/self/exe", Argv: []string{standin.Name, "proxy"}}
	if v.Traits().Need(plan.NeedsZtunnel) {
		if w.tools.Ztunnel == "" {
			return fmt.Errorf("%s needs %s, and none was given", v, plan.NeedsZtunnel)
		}
		program = ambient.Program{Binary: w.tools.Ztunnel}
	}
	cfg, err := meshOf(c, v, p, program)
	if err != nil {
		return err
	}
	m, err := ambient.Open(ctx, cfg)
	if err != nil {
		return err
	}
	w.meshes[v] = m
	if cfg.Waypoint == nil {
		return nil
	}
	t, err := openTunnelled(ctx, c, m, w.tools.Envoy, cfg)
	if err != nil {
		return fmt.Errorf("waypoint: %w", err)
	}
	w.tunnelled = append(w.tunnelled, t)
	return nil
}

// meshOf is the mesh of a variant. In timed trials each client pod asks for one service
// address only: with several, the redirect to one port of the proxy meets its own
// connections in TIME_WAIT.
func meshOf(c *netsim.Cluster, v plan.Variant, p plan.Plan, program ambient.Program) (ambient.Config, error) {
	cfg := ambient.Config{Program: program, Protocol: ambient.TCP, Workers: p.Load.MaxProcs, AccessLog: true, Dir: filepath.Join(c.Dir(), "ambient")}
	if v.Traits().Security == plan.MutualTLS {
		cfg.Protocol = ambient.HBONE
	}
	for _, name := range nodeNames {
		n, err := c.Node(name)
		if err != nil {
			return cfg, err
		}
		cfg.Nodes = append(cfg.Nodes, ambient.Node{Name: name, Netns: n.Netns, Start: starter(c, name)})
	}
	for _, name := range capturedPods {
		pod, err := member(c, name)
		if err != nil {
			return cfg, err
		}
		cfg.Pods = append(cfg.Pods, pod)
	}
	if v.Proxied() {
		pod, err := member(c, proxyPod)
		if err != nil {
			return cfg, err
		}
		cfg.Waypoint = &pod
	}
	names := []string{serviceName}
	if v.Traits().Many {
		names = append(names, manyNames()...)
	}
	for _, name := range names {
		vip, err := c.Resolve(scenario.Target{Service: name, Port: servicePort, Family: scenario.IPv4})
		if err != nil {
			return cfg, err
		}
		cfg.Services = append(cfg.Services, ambient.Service{Name: name, VIP: vip.Addr(), Port: servicePort, Target: serverPort, Pod: serverPod})
	}
	return cfg, nil
}

// member is a pod as the mesh knows it; its service account has its name.
func member(c *netsim.Cluster, name string) (ambient.Pod, error) {
	h, err := c.Pod(name)
	return ambient.Pod{Name: name, Node: h.Node, ServiceAccount: name, Address: h.IPv4, Netns: h.Netns}, err
}

// starter starts a node proxy as a process of the node's own.
func starter(c *netsim.Cluster, node string) func(context.Context, ambient.Command) (ambient.Process, error) {
	return func(ctx context.Context, cmd ambient.Command) (ambient.Process, error) {
		p, err := c.StartOnNode(ctx, node, netsim.Command{
			Path: cmd.Path, Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, Stdout: cmd.Log, Stderr: cmd.Log,
		})
		if err != nil {
			return nil, err
		}
		return p, nil
	}
}

// proxies are the node proxies of one cluster, as a site sees them.
type proxies struct {
	cluster *netsim.Cluster
	mesh    *ambient.Mesh
	variant plan.Variant
	client  string
}

// CPU implements Proxies.
func (p proxies) CPU() (map[string]time.Duration, error) { return cpuOf(p) }

// cpuOf is what has been used in the cgroups of node proxies.
func cpuOf(p Proxies) (map[string]time.Duration, error) {
	names, dirs, err := p.Cgroups()
	if err != nil {
		return nil, err
	}
	all := map[string]time.Duration{}
	for i, name := range names {
		if all[name], err = cgroupCPU(dirs[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Cgroups implements Proxies.
func (p proxies) Cgroups() (names []string, dirs []*os.File, err error) {
	for _, name := range nodeNames {
		n, err := p.cluster.Node(name)
		if err != nil {
			return nil, nil, err
		}
		names, dirs = append(names, "node proxy "+name), append(dirs, n.Own)
	}
	return names, dirs, nil
}

// Opened implements Proxies. A proxy that has ended is named here.
func (p proxies) Opened(ctx context.Context) ([]ambient.Opened, error) {
	if err := p.mesh.Check(); err != nil {
		return nil, err
	}
	return p.mesh.Opened(ctx)
}

// Want implements Proxies.
func (p proxies) Want() (client, server ambient.Opened) {
	return wanted(p.variant, ambient.Namespace, p.client)
}

// wanted is what both sides' proxies are to count of a variant, whose pods each have
// an account of their own name.
func wanted(v plan.Variant, namespace, from string) (client, server ambient.Opened) {
	id := func(account string) string { return ambient.Identity(namespace, account) }
	client = ambient.Opened{
		Reporter: ambient.ReporterSource, Security: ambient.SecurityUnknown,
		Source: ambient.Unknown, Destination: id(serverPod),
	}
	if v.Traits().Security == plan.MutualTLS {
		client.Security, client.Source = ambient.SecurityMutual, id(from)
	}
	server = client
	server.Reporter = ambient.ReporterDest
	if v.Proxied() { // each side's other end is the waypoint
		client.Destination, server.Source = id(proxyPod), id(proxyPod)
	}
	return client, server
}

// countOf adds up what was counted as wanted.
func countOf(all []ambient.Opened, want ambient.Opened) uint64 {
	var sum uint64
	for _, o := range all {
		n := o.Count
		if o.Count = 0; o == want {
			sum += n
		}
	}
	return sum
}

// otherwise is what node proxies counted between two readings and not as wanted at either
// side; nil when nothing.
func otherwise(before, after []ambient.Opened, client, server ambient.Opened) map[string]uint64 {
	var all map[string]uint64
	for _, o := range after {
		if o.Count = 0; o == client || o == server {
			continue
		}
		now, then := countOf(after, o), countOf(before, o)
		if now <= then { // or started anew
			continue
		}
		if all == nil {
			all = map[string]uint64{}
		}
		all[fmt.Sprintf("at the %s from %s to %s, %s", o.Reporter, o.Source, o.Destination, o.Security)] = now - then
	}
	return all
}

// Describe implements Described.
func (w *simulated) Describe(ctx context.Context) ([]result.Proxy, error) {
	var all []result.Proxy
	for _, v := range plan.Variants() {
		m := w.meshes[v]
		if m == nil {
			continue
		}
		memory, err := m.ResidentBytes()
		if err != nil {
			return all, fmt.Errorf("%s: %w", v, err)
		}
		all = append(all, result.Proxy{
			Variant: v, Program: m.Version(), Workers: m.Workers(), AccessLog: m.AccessLog(), ResidentBytes: memory,
		})
	}
	envoys, err := w.envoys(ctx)
	return append(all, envoys...), err
}

// envoys describes the waypoints. None of them writes an access log.
func (w *simulated) envoys(ctx context.Context) ([]result.Proxy, error) {
	var all []result.Proxy
	for _, v := range plan.Variants() {
		c := w.clusters[v]
		if c == nil || !v.Proxied() {
			continue
		}
		version, err := envoyVersion(ctx, w.tools.Envoy)
		if err != nil {
			return all, err
		}
		pod, err := c.Pod(proxyPod)
		if err != nil {
			return all, err
		}
		memory, err := residentIn(pod.Cgroup)
		if err != nil {
			return all, fmt.Errorf("%s: %w", v, err)
		}
		all = append(all, result.Proxy{Variant: v, Program: envoyProgram + " " + version, Workers: proxyWorkers, ResidentBytes: memory})
	}
	return all, nil
}

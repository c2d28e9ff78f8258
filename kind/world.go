package kind

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

var (
	_ scenario.World     = (*Cluster)(nil)
	_ scenario.Forwarder = (*Cluster)(nil)
)

// Pod implements scenario.World.
func (c *Cluster) Pod(name string) (scenario.PodHandle, error) {
	p, err := c.pod(name)
	if err != nil {
		return scenario.PodHandle{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var probed, forwarded []uint16
	if p.spec.Waypoint {
		probed, forwarded = []uint16{waypointHealth}, []uint16{waypointAdmin}
	}
	return scenario.PodHandle{
		Probed: probed, Forwarded: forwarded, Name: name, Node: p.node, Netns: p.place.netns, Cgroup: p.place.cgroup,
		IPv4: of(scenario.IPv4, p.addrs), IPv6: of(scenario.IPv6, p.addrs),
		Addresses: slices.Clone(p.addrs), Links: slices.Clone(p.place.links), Managed: c.managed[name],
	}, nil
}

// Resolve implements scenario.World.
func (c *Cluster) Resolve(t scenario.Target) (netip.AddrPort, error) {
	var all []netip.Addr
	switch {
	case t.Service != "" && t.Pod != "":
		return netip.AddrPort{}, fmt.Errorf("resolve: both service %s and pod %s are named", t.Service, t.Pod)
	case t.Pod != "":
		p, err := c.pod(t.Pod)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
		}
		all = p.addrs
	default:
		var ok bool
		if all, ok = c.vips.given[t.Service]; !ok {
			return netip.AddrPort{}, fmt.Errorf("resolve: no service %q has been applied", t.Service)
		}
	}
	at := of(t.Family, all)
	if !at.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("%w: %s: it has no address of this family", scenario.ErrNotExpressible, t)
	}
	if t.Family == scenario.Mapped {
		at = netip.AddrFrom16(at.As16())
	}
	c.mu.Lock()
	declared := c.objects
	c.mu.Unlock()
	if err := namesProtocol(declared, t); err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
	}
	return netip.AddrPortFrom(at, t.Port), nil
}

// Exec implements scenario.World.
func (c *Cluster) Exec(ctx context.Context, pod string, l traffic.Load, seen func(traffic.Conn)) ([]traffic.Conn, error) {
	p, err := c.pod(pod)
	if err != nil {
		return nil, err
	}
	if !c.isManaged(pod) {
		if err := c.ServeOutside(ctx); err != nil {
			return nil, fmt.Errorf("traffic from %s: %w", pod, err)
		}
	}
	conns, err := c.witness.Run(ctx, c.launcher(p), l, seen)
	if err != nil {
		return conns, fmt.Errorf("traffic from %s: %w", pod, err)
	}
	return conns, nil
}

func (c *Cluster) startServer(ctx context.Context, p *pod) error {
	cfg := traffic.ServerConfig{Name: p.spec.Name, Ports: p.spec.Serve, First: p.spec.ServeFirst, UDP: p.spec.ServeUDP}
	// The process outlives the call that needed it first.
	r, err := traffic.StartServer(context.WithoutCancel(ctx), c.launcher(p), cfg, func(t traffic.Conn) { c.witness.Server(p.spec.Name, t) })
	if err == nil {
		p.server = r
	}
	return err
}

func (c *Cluster) stopServer(ctx context.Context, name string) error {
	p, err := c.pod(name)
	if err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	p.stopped = true
	if p.server == nil {
		return nil
	}
	return p.server.Stop(ctx)
}

// Served implements scenario.World.
func (c *Cluster) Served(ctx context.Context) (map[string][]traffic.Conn, error) {
	servers := map[string]*traffic.RemoteServer{}
	for name, p := range c.pods {
		if p.server != nil {
			servers[name] = p.server
		}
	}
	served, err := c.witness.Collect(ctx, servers)
	if err != nil {
		return served, fmt.Errorf("collect what servers saw: %w", err)
	}
	return served, nil
}

// Do implements scenario.World.
func (c *Cluster) Do(ctx context.Context, a scenario.Action) error {
	switch a := a.(type) {
	case scenario.Apply:
		return c.Apply(ctx, a.Objects)
	case scenario.Enrol:
		return c.label(ctx, a.Pod, true)
	case scenario.Leave:
		if err := c.ServeOutside(ctx); err != nil {
			return fmt.Errorf("%s leaves: %w", a.Pod, err)
		}
		return c.label(ctx, a.Pod, false)
	case scenario.StopServer:
		return c.stopServer(ctx, a.Pod)
	case scenario.KillAgent:
		return c.killAgent(ctx, a.Node)
	case scenario.StartAgent:
		return c.startAgent(ctx, a.Node)
	case scenario.KillWaypoint:
		return c.killWaypoint(ctx, a.Pod)
	case scenario.StartWaypoint:
		return c.startWaypoint(ctx, a.Pod)
	}
	return doable(a)
}

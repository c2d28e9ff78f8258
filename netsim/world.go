package netsim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

// Apply implements scenario.World: it starts the servers of all endpoints, and
// returns when every node's mesh has o. On error some nodes may have it and
// others not; applying again is safe.
func (c *Cluster) Apply(ctx context.Context, o scenario.Objects) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	d, err := c.derive(c.current(), o)
	if err != nil {
		return fmt.Errorf("apply: %w", RefusedError{err})
	}
	if err := c.needServers(ctx, d.endpoints(netip.Addr{})); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := c.declare(ctx, d); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	// Waypoints before those who lead to them; what leaves a waypoint stays there a
	// while for those who still come.
	if err := c.applyWaypoints(ctx, d); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	state := c.past.follow(o)
	for _, n := range c.nodes {
		g.Go(func() error {
			if err := errors.Join(n.ownVIPs(d.virtual()), n.mesh.apply(ctx, d)); err != nil {
				return fmt.Errorf("apply: node %s: %w", n.name, err)
			}
			c.past.applied(n.name, state)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		var no intent.UnsupportedError
		if errors.As(err, &no) {
			err = fmt.Errorf("%w: %w", scenario.ErrNotExpressible, err)
		}
		return err
	}
	if err := c.settleWaypoints(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	c.mu.Lock()
	c.desired = d
	c.mu.Unlock()
	return c.saveState()
}

func (c *Cluster) current() *desired {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.desired
}

// Pod implements scenario.World.
func (c *Cluster) Pod(name string) (scenario.PodHandle, error) {
	p, err := c.pod(name)
	if err != nil {
		return scenario.PodHandle{}, err
	}
	return scenario.PodHandle{
		Name: name, Node: p.node.name, Netns: p.netns, Cgroup: p.cgroup,
		IPv4: p.addrs.IPv4, IPv6: p.addrs.IPv6, Addresses: p.families(),
		Links: slices.Clone(p.links), Managed: c.isManaged(name),
	}, nil
}

func (c *Cluster) isManaged(pod string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.managed[pod]
}

// Resolve implements scenario.World. Dual means IPv4 where there is one; no
// family means the same.
func (c *Cluster) Resolve(t scenario.Target) (netip.AddrPort, error) {
	var addrs Addresses
	switch {
	case t.Service != "" && t.Pod != "":
		return netip.AddrPort{}, fmt.Errorf("resolve: both service %s and pod %s are named", t.Service, t.Pod)
	case t.Pod != "":
		name, n := scenario.SplitAddress(t.Pod)
		p, err := c.pod(name)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
		}
		addrs = p.nth(n)
	default:
		var err error
		if addrs, err = c.virtualOf(t.Service); err != nil {
			return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
		}
	}
	if err := c.namesProtocol(t); err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
	}
	a := addrs.of(t.Family)
	if !a.IsValid() {
		if t.Family == scenario.IPv6 && !c.ipv6 {
			return netip.AddrPort{}, fmt.Errorf("%w: this kernel has no IPv6", scenario.ErrNotExpressible)
		}
		return netip.AddrPort{}, fmt.Errorf("resolve: %s%s has no %s address", t.Service, t.Pod, t.Family)
	}
	return netip.AddrPortFrom(a, t.Port), nil
}

// virtualOf returns what a service has, or had before it was removed.
func (c *Cluster) virtualOf(service string) (Addresses, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	if a, ok := c.vips.given[service]; ok {
		return a, nil
	}
	names := slices.Sorted(maps.Keys(c.vips.given))
	return Addresses{}, fmt.Errorf("no service %q has been applied: there are %s", service, strings.Join(names, ", "))
}

// Exec implements scenario.World.
func (c *Cluster) Exec(ctx context.Context, pod string, l traffic.Load, seen func(traffic.Conn)) ([]traffic.Conn, error) {
	if err := c.needServers(ctx, c.serversFor(l.To.Addr().Unmap())); err != nil {
		return nil, fmt.Errorf("traffic from %s: %w", pod, err)
	}
	conns, err := c.witness.Run(ctx, c.launcher(pod), l, seen)
	if err != nil {
		return conns, fmt.Errorf("traffic from %s: %w", pod, err)
	}
	return conns, nil
}

// serversFor are the pods that may answer at an address.
func (c *Cluster) serversFor(a netip.Addr) []string {
	for name, p := range c.pods {
		if slices.Contains(p.families(), a) {
			return []string{name}
		}
	}
	if !a.IsValid() {
		return nil
	}
	return c.current().endpoints(a)
}

// Do implements scenario.World.
func (c *Cluster) Do(ctx context.Context, a scenario.Action) error {
	switch a := a.(type) {
	case scenario.Apply:
		return c.Apply(ctx, a.Objects)
	case scenario.Enrol:
		return c.enrol(a.Pod, true)
	case scenario.Leave:
		return c.enrol(a.Pod, false)
	case scenario.StopServer:
		return c.stopServer(ctx, a.Pod)
	case scenario.Recycle:
		return c.recycle(ctx, a.Pod)
	case scenario.Churn:
		return c.churn(ctx, a)
	case scenario.KillIstiod:
		return c.killIstiod()
	case scenario.StartIstiod:
		return c.startIstiod(ctx)
	case scenario.KillWaypoint:
		w, err := c.waypointOf(a.Pod)
		if err != nil {
			return err
		}
		return w.kill()
	case scenario.StartWaypoint:
		w, err := c.waypointOf(a.Pod)
		if err != nil {
			return err
		}
		return w.start(ctx)
	case scenario.KillAgent:
		agent, err := c.agentOf(a.Node)
		if err != nil {
			return err
		}
		return agent.kill()
	case scenario.StartAgent:
		agent, err := c.agentOf(a.Node)
		if err != nil {
			return err
		}
		return agent.start(ctx)
	}
	return fmt.Errorf("%w: netsim cannot %s", scenario.ErrNotExpressible, a)
}

// enrol brings a pod into the mesh of its node, or takes it out.
func (c *Cluster) enrol(name string, in bool) error {
	p, err := c.pod(name)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	c.applying.Lock()
	defer c.applying.Unlock()
	act := p.node.mesh.leave
	if in {
		act = p.node.mesh.enrol
	}
	if err := act(p); err != nil {
		return fmt.Errorf("node %s: %w", p.node.name, err)
	}
	c.mu.Lock()
	c.managed[name] = in
	c.mu.Unlock()
	if c.control == nil { // still opening
		return nil
	}
	return c.saveState()
}

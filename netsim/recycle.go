package netsim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/duomesh/duomesh/internal/scenario"
)

// recycle ends a pod and makes another of the same name and addresses: new
// namespace, new cgroup, new link. It is not enrolled. An agent is not told and
// must see it by itself; an engine in this process has nobody to see it.
func (c *Cluster) recycle(ctx context.Context, name string) error {
	p, err := c.pod(name)
	if err != nil {
		return fmt.Errorf("recycle: %w", err)
	}
	if p.spec.Waypoint {
		return fmt.Errorf("%w: recycle pod %s: it is a waypoint", scenario.ErrNotExpressible, name)
	}
	c.applying.Lock()
	defer c.applying.Unlock()
	if engineOf(p.node.mesh) != nil && c.isManaged(name) {
		if err := p.node.mesh.leave(p); err != nil {
			return fmt.Errorf("recycle: node %s: %w", p.node.name, err)
		}
	}
	if err := c.remake(ctx, p); err != nil {
		return fmt.Errorf("recycle pod %s: %w", name, err)
	}
	c.mu.Lock()
	c.managed[name] = false
	c.mu.Unlock()
	return c.saveState()
}

// remake replaces what p is. Nobody else may use the pod meanwhile.
func (c *Cluster) remake(ctx context.Context, p *pod) error {
	c.servers.drop(p.spec.Name)
	err := errors.Join(
		removeCgroup(ctx, p.cgroup.Name()),
		// A namespace may outlive its pod, a link would with it.
		p.node.space.nl.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.hostLink()}}),
		p.close(),
	)
	if err != nil {
		return err
	}
	fresh, err := openPod(p.node, slices.Index(p.node.pods, p), p.spec, p)
	*p = *fresh
	return err
}

// hostLink is the interface of the pod's link on its node.
func (p *pod) hostLink() int {
	i := slices.IndexFunc(p.links, func(l scenario.LinkEnd) bool { return !l.InPod })
	return p.links[i].Ifindex
}

// drop forgets a pod's server, which is killed with the pod.
func (s *servers) drop(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byPod, pod)
}

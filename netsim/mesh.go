package netsim

import (
	"context"
	"fmt"
	"os"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim/kubeproxy"
)

// openMeshes gives every node what carries service addresses.
func (c *Cluster) openMeshes(ctx context.Context) error {
	for _, n := range c.nodes {
		if err := os.MkdirAll(nodeDir(c.cfg, n), 0o700); err != nil {
			return fmt.Errorf("make directory of node %s: %w", n.name, err)
		}
		var err error
		switch {
		case c.mesh == scenario.Duomesh && c.cfg.Agent != "":
			n.mesh, err = openAgent(ctx, c.cfg, n, c.feedOf(n))
		case c.mesh == scenario.Duomesh:
			n.mesh, err = openEngine(c.cfg, n)
		case c.mesh == scenario.DNAT:
			n.mesh, err = openRules(n)
		default:
			n.mesh = noMesh{}
		}
		if err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return nil
}

// feedOf is where the node's agent asks.
func (c *Cluster) feedOf(n *node) feed {
	if c.plane == nil {
		return newFileFeed(nodeDir(c.cfg, n))
	}
	return c.plane.newFeed(c, n)
}

// noMesh leaves service addresses to nobody.
type noMesh struct{}

func (noMesh) apply(context.Context, *desired) error { return nil }
func (noMesh) close() error                          { return nil }

func (noMesh) enrol(p *pod) error {
	return fmt.Errorf("%w: enrol %s: this cluster has no mesh", scenario.ErrNotExpressible, p.spec.Name)
}

func (noMesh) leave(p *pod) error {
	return fmt.Errorf("%w: leave %s: this cluster has no mesh", scenario.ErrNotExpressible, p.spec.Name)
}

func (noMesh) serveWaypoint(p *pod) error {
	return fmt.Errorf("%w: waypoint %s: nobody hands connections over in this cluster", scenario.ErrNotExpressible, p.spec.Name)
}

// rules is kube-proxy's DNAT in the node's namespace. It serves every pod of
// the node, and ends with the namespace.
type rules struct {
	noMesh
	proxy *kubeproxy.Proxy
}

func openRules(n *node) (mesh, error) {
	proxy, err := kubeproxy.New(n.space.ns, n.ipv6)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w: %w", n.name, scenario.ErrNotExpressible, err)
	}
	return &rules{proxy: proxy}, nil
}

func (r *rules) apply(ctx context.Context, d *desired) error {
	return r.proxy.Apply(ctx, d.snapshot)
}

package netsim

import (
	"context"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// engine is the dataplane of one node of a Duomesh cluster.
type engine struct {
	node *dataplane.Node
}

func openEngine(cfg Config, n *node) (mesh, error) {
	host := dataplane.Host{
		Cgroup: n.cgroup, BPFFS: n.bpffs, Place: intent.Place{Node: n.name},
		Log: cfg.Log.With("node", n.name),
	}
	dp, err := dataplane.Open(host, cfg.Engine)
	if err != nil {
		return nil, err
	}
	return engine{dp}, nil
}

// engineOf returns the dataplane behind a mesh, nil for the meshes without one.
func engineOf(m mesh) *dataplane.Node {
	if e, ok := m.(engine); ok {
		return e.node
	}
	return nil
}

func (e engine) apply(ctx context.Context, d *desired) error {
	return e.node.Apply(ctx, d.snapshot)
}

func (e engine) enrol(p *pod) error { return e.node.Enrol(podOf(p)) }
func (e engine) leave(p *pod) error { return e.node.Leave(podOf(p)) }

// close removes the pins as well: nobody takes over from a simulated node.
func (e engine) close() error { return e.node.Remove() }

func podOf(p *pod) dataplane.Pod {
	return dataplane.Pod{Name: namespace + "/" + p.spec.Name, Netns: p.netns, Cgroup: p.cgroup}
}

package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
)

// engine is the dataplane of one node of a Duomesh cluster, in this process.
type engine struct {
	node   *dataplane.Node
	window *window

	mu   sync.Mutex
	pods map[*pod]bool // enrolled
}

func openEngine(cfg Config, n *node) (mesh, error) {
	host := dataplane.Host{
		Cgroup: n.cgroup, BPFFS: n.bpffs, Place: n.place,
		Log: cfg.Log.With("node", n.name),
	}
	dp, err := dataplane.Open(host, cfg.Engine)
	if err != nil {
		return nil, err
	}
	w, err := openWindow(filepath.Join(nodeDir(cfg, n), adminSocket), dp, host.Place)
	if err != nil {
		return nil, errors.Join(err, dp.Remove())
	}
	return &engine{node: dp, window: w, pods: map[*pod]bool{}}, nil
}

// engineOf returns the dataplane behind a mesh, nil for the meshes without one
// in this process.
func engineOf(m mesh) *dataplane.Node {
	if e, ok := m.(*engine); ok {
		return e.node
	}
	return nil
}

// repair makes the kernels of the nodes what was declared before, where somebody has
// changed them. Agents of their own do that by themselves.
func (c *Cluster) repair() error {
	for _, n := range c.nodes {
		dp := engineOf(n.mesh)
		if dp == nil {
			continue
		}
		if _, err := dp.Repair(); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return nil
}

func (e *engine) apply(ctx context.Context, d *desired) error {
	if err := e.node.Apply(ctx, d.snapshot); err != nil {
		return err
	}
	if no := e.node.Unserved(); len(no) > 0 {
		return fmt.Errorf("%w: %s", scenario.ErrNotExpressible, strings.Join(no, "; "))
	}
	e.window.applied(d.snapshot)
	return e.endStale()
}

// endStale does what the agent does after a change.
func (e *engine) endStale() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*os.File
	for p := range e.pods {
		all = append(all, p.netns)
	}
	_, err := e.node.EndStale(all...)
	return err
}

func (e *engine) known(p *pod, enrolled bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if enrolled {
		e.pods[p] = true
	} else {
		delete(e.pods, p)
	}
}

func (e *engine) enrol(p *pod) error {
	older := 0
	if e.node.Confirm(podOf(p)) != nil { // not managed yet
		var err error
		// Of a kernel without sock_diag nobody learns how many there are.
		if older, err = e.node.Older(podOf(p)); err != nil && !kernel.Missing(err) {
			return err
		}
	}
	if err := e.node.Enrol(podOf(p)); err != nil {
		return err
	}
	e.known(p, true)
	e.window.enrolled(p, true, older)
	return nil
}

func (e *engine) leave(p *pod) error {
	if err := e.node.Leave(podOf(p)); err != nil {
		return err
	}
	e.known(p, false)
	e.window.enrolled(p, false, 0)
	return nil
}

func (e *engine) serveWaypoint(p *pod) error {
	return e.node.ServeWaypoint(p.cgroup, p.netns, scenario.HandOffPort)
}

// close removes the pins as well: nobody takes over from a simulated node.
func (e *engine) close() error { return errors.Join(e.window.close(), e.node.Remove()) }

func podOf(p *pod) dataplane.Pod {
	return dataplane.Pod{Name: namespace + "/" + p.spec.Name, Netns: p.netns, Cgroup: p.cgroup}
}

package netsim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// node is one simulated machine. Its cluster owns it.
type node struct {
	name   string
	index  int          // from 1
	place  intent.Place // where it stands
	ipv6   bool
	space  *space
	cgroup *os.File
	own    *os.File // cgroup of the node's own processes
	bpffs  string   // mount point, empty without one
	pods   []*pod
	mesh   mesh
}

// mesh is what carries service addresses to pods on one node.
type mesh interface {
	// apply makes d the node's state and returns when the kernel has it.
	apply(ctx context.Context, d *desired) error
	enrol(p *pod) error
	leave(p *pod) error
	// serveWaypoint makes p the waypoint end of the hand-off.
	serveWaypoint(p *pod) error
	close() error
}

// openNode makes a node of a cluster. What it made is in the returned node also on
// error.
func openNode(c *Cluster, index int, spec scenario.Node) (*node, error) {
	name := spec.Name
	n, err := makeNode(filepath.Join(c.cgroup, name), index, name, c.ipv6)
	n.place = c.cfg.place(spec)
	if err == nil && (c.cfg.Pinned || c.cfg.Agent != "") {
		err = n.mountBPF(filepath.Join(c.cfg.dir(), name))
	}
	if err != nil {
		err = fmt.Errorf("node %s: %w", name, err)
	}
	return n, err
}

// makeNode makes namespace and cgroup of a node.
func makeNode(cgroup string, index int, name string, ipv6 bool) (_ *node, err error) {
	n := &node{name: name, index: index, ipv6: ipv6}
	if n.cgroup, err = makeCgroup(cgroup); err != nil {
		return n, err
	}
	if n.own, err = makeCgroup(filepath.Join(n.cgroup.Name(), ownProcesses)); err != nil {
		return n, err
	}
	if n.space, err = openSpace(true, ipv6); err != nil {
		return n, err
	}
	return n, n.addresses()
}

// addresses gives the node its own addresses, and the whole range of virtual
// ones: nobody listens on them, so what no mesh redirects is refused at once.
func (n *node) addresses() error {
	a := nodeAddrs(n.index)
	err := errors.Join(n.space.addAddr(loopback, a.IPv4), n.space.addLocal(loopback, vipRange4))
	if n.ipv6 {
		err = errors.Join(err, n.space.addAddr(loopback, a.IPv6), n.space.addLocal(loopback, vipRange6))
	}
	return err
}

// ownVIPs makes virtual addresses outside the range the node's own as well.
func (n *node) ownVIPs(addrs []netip.Addr) error {
	var errs []error
	for _, a := range addrs {
		if !vipRange4.Contains(a) && !vipRange6.Contains(a) {
			errs = append(errs, n.space.addLocal(loopback, single(a)))
		}
	}
	return errors.Join(errs...)
}

// mountBPF mounts a bpffs instance of the node's own below its run directory.
func (n *node) mountBPF(dir string) error {
	path := filepath.Join(dir, "bpf")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make bpffs directory: %w", err)
	}
	if err := unix.Mount("bpffs", path, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", path, err)
	}
	n.bpffs = path
	return nil
}

// linkName is the name of the link to a node, on every other one.
func linkName(to *node) string { return fmt.Sprintf("n%d", to.index) }

// connect makes the link between two nodes and routes each other's pods over it.
func (n *node) connect(m *node) error {
	mine, theirs := mac(macNode, n.index, m.index), mac(macNode, m.index, n.index)
	a, b, err := n.space.addVeth(linkName(m), mine, m.space, linkName(n), theirs)
	if err != nil {
		return fmt.Errorf("link of nodes %s and %s: %w", n.name, m.name, err)
	}
	err = errors.Join(n.reach(a, m, theirs), m.reach(b, n, mine))
	if err != nil {
		return fmt.Errorf("routes between nodes %s and %s: %w", n.name, m.name, err)
	}
	return nil
}

// reach routes what is on the other node out of an interface.
func (n *node) reach(ifindex int, other *node, mac []byte) error {
	a := nodeAddrs(other.index)
	errs := []error{
		n.space.addNeigh(ifindex, a.IPv4, mac),
		n.space.addRoute(ifindex, nodePrefix4(other.index), a.IPv4),
	}
	if n.ipv6 {
		errs = append(errs,
			n.space.addNeigh(ifindex, a.IPv6, mac),
			n.space.addRoute(ifindex, nodePrefix6(other.index), a.IPv6))
	}
	for _, p := range other.pods {
		for _, addr := range p.families() {
			via, prefix := a.IPv4, nodePrefix4(other.index)
			if addr.Is6() {
				via, prefix = a.IPv6, nodePrefix6(other.index)
			}
			if !prefix.Contains(addr) { // declared by hand
				errs = append(errs, n.space.addRoute(ifindex, single(addr), via))
			}
		}
	}
	return errors.Join(errs...)
}

// close ends the node's engine and lets go of what it holds; the cgroup
// directories are removed with the cluster's.
func (n *node) close() error {
	var errs []error
	if n.mesh != nil {
		errs = append(errs, n.mesh.close())
		n.mesh = nil
	}
	if n.bpffs != "" {
		errs = append(errs, unmount(n.bpffs))
	}
	for _, p := range n.pods {
		errs = append(errs, p.close())
	}
	if n.space != nil {
		errs = append(errs, n.space.close())
	}
	for _, f := range []*os.File{n.own, n.cgroup} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return nil
}

// unmount takes a mount away; one that is not there any more is no error.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

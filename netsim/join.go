package netsim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/scenario"
)

// join links the cluster's nodes with the control plane's, and makes nodes and pods
// known to Kubernetes.
func (c *Cluster) join(ctx context.Context) error {
	if c.cfg.ControlPlane == nil {
		return nil
	}
	if err := c.cfg.ControlPlane.take(c); err != nil {
		return err
	}
	c.plane = c.cfg.ControlPlane
	for _, n := range c.nodes {
		if err := c.plane.node.connect(n); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, n := range c.nodes {
		g.Go(func() error { return c.introduce(ctx, n) })
	}
	return g.Wait()
}

// introduce makes a node known, the agent that it will have, and its pods.
func (c *Cluster) introduce(ctx context.Context, n *node) error {
	stack, own := c.plane.stack, nodeAddrs(n.index).list()
	if !n.ipv6 {
		own = own[:1]
	}
	labels := map[string]string{}
	place := n.place
	for label, value := range map[string]string{
		corev1.LabelTopologyRegion: place.Locality.Region, corev1.LabelTopologyZone: place.Locality.Zone,
		"topology.istio.io/subzone": place.Locality.Subzone,
	} {
		if value != "" {
			labels[label] = value
		}
	}
	if err := stack.AddNode(ctx, controlplane.Node{Name: n.name, Addresses: own, Labels: labels}); err != nil {
		return err
	}
	agent := controlplane.Pod{
		Namespace: controlplane.RootNamespace, Name: agentPod(n), Node: n.name, Addresses: own, HostNetwork: true,
		ServiceAccount: controlplane.NodeAccount, Labels: map[string]string{"app": "duomesh-agent"},
	}
	if err := stack.AddPod(ctx, agent); err != nil {
		return err
	}
	if err := c.equip(ctx, n); err != nil {
		return err
	}
	for _, p := range n.pods {
		if p.spec.Waypoint {
			continue // made when there is a Gateway for it
		}
		if err := stack.AddPod(ctx, p.object(nil)); err != nil {
			return err
		}
	}
	return nil
}

// equip writes what the node's agent needs to trust istiod and to be trusted.
func (c *Cluster) equip(ctx context.Context, n *node) error {
	files := filesOf(c.cfg, n)
	if err := os.MkdirAll(filepath.Dir(files.Token), 0o700); err != nil {
		return fmt.Errorf("make directory of node %s: %w", n.name, err)
	}
	roots, err := os.ReadFile(c.plane.stack.RootsFile())
	if err == nil {
		err = os.WriteFile(files.Roots, roots, 0o600)
	}
	if err != nil {
		return fmt.Errorf("give node %s istiod's roots: %w", n.name, err)
	}
	return c.plane.stack.KeepToken(ctx, AgentToken(n.name), files.Token)
}

func agentPod(n *node) string { return "duomesh-agent-" + n.name }

// AgentToken is what the agent of a node shows istiod.
func AgentToken(node string) controlplane.Token {
	return controlplane.Token{
		Namespace: controlplane.RootNamespace, ServiceAccount: controlplane.NodeAccount,
		Pod: "duomesh-agent-" + node, Audiences: []string{controlplane.Audience},
	}
}

// object is the pod as Kubernetes knows it. Its labels are app and those given.
func (p *pod) object(labels map[string]string) controlplane.Pod {
	o := controlplane.Pod{
		Namespace: namespace, Name: p.spec.Name, Node: p.node.name, Addresses: p.families(),
		Labels: map[string]string{"app": p.spec.Name},
	}
	maps.Copy(o.Labels, labels)
	for _, port := range p.spec.Serve {
		o.Ports = append(o.Ports, p.containerPort(corev1.ProtocolTCP, "tcp", port))
	}
	for _, port := range p.spec.ServeUDP {
		o.Ports = append(o.Ports, p.containerPort(corev1.ProtocolUDP, "udp", port))
	}
	return o
}

// containerPort is a port under the name that the pod gives it, else under one of its
// own.
func (p *pod) containerPort(protocol corev1.Protocol, word string, port uint16) corev1.ContainerPort {
	c := corev1.ContainerPort{Name: fmt.Sprintf("%s-%d", word, port), ContainerPort: int32(port), Protocol: protocol}
	for name, number := range p.spec.Ports {
		if number == port && protocol == corev1.ProtocolTCP {
			c.Name = name
		}
	}
	return c
}

// place is where a node stands. A control plane knows one cluster, its own.
func (c Config) place(n scenario.Node) intent.Place {
	cluster := n.Place.Cluster
	if c.ControlPlane != nil {
		cluster = controlplane.ClusterID
	}
	return intent.Place{
		Node: n.Name, Network: cmp.Or(n.Place.Network, c.Network), Cluster: cluster,
		Locality: intent.Locality{Region: n.Place.Region, Zone: n.Place.Zone, Subzone: n.Place.Subzone},
	}
}

// part takes the cluster's links and objects out of the control plane.
func (c *Cluster) part(ctx context.Context) error {
	if c.plane == nil {
		return nil
	}
	defer c.plane.letGo()
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	stack := c.plane.stack
	// The replicas leave before their Gateway: its Service, which istiod may make once more
	// then, must not find them, or the next one of the name has no address.
	var errs []error
	for name := range c.waypoints {
		errs = append(errs, stack.RemovePod(ctx, namespace, name))
	}
	errs = append(errs, c.delete(ctx, c.declared.Objects))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, n := range c.nodes {
		for _, p := range n.pods {
			g.Go(func() error { return stack.RemovePod(ctx, namespace, p.spec.Name) })
		}
		g.Go(func() error {
			return errors.Join(stack.RemovePod(ctx, controlplane.RootNamespace, agentPod(n)), stack.RemoveNode(ctx, n.name))
		})
	}
	errs = append(errs, g.Wait())
	for _, n := range c.nodes {
		errs = append(errs, c.plane.node.disconnect(n))
	}
	return errors.Join(errs...)
}

// partTime bounds how long the control plane may take to forget a cluster.
const partTime = 10 * time.Second

// disconnect removes the link between two nodes, if there is one.
func (n *node) disconnect(m *node) error {
	l, err := n.space.linkNamed(linkName(m))
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err == nil {
		err = n.space.nl.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("unlink nodes %s and %s: %w", n.name, m.name, err)
	}
	return nil
}

// killIstiod and startIstiod do what scenarios ask.
func (c *Cluster) killIstiod() error {
	if c.plane == nil {
		return fmt.Errorf("%w: this cluster has no istiod", scenario.ErrNotExpressible)
	}
	return c.plane.stack.KillIstiod()
}

func (c *Cluster) startIstiod(ctx context.Context) error {
	if c.plane == nil {
		return fmt.Errorf("%w: this cluster has no istiod", scenario.ErrNotExpressible)
	}
	return c.plane.stack.StartIstiod(ctx)
}

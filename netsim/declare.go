package netsim

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/scenario/kube"
)

// declare makes d the state of the control plane: what changed is applied, what is
// new before that, and what is gone is deleted at last, so that no service is without
// endpoints meanwhile. Without a control plane there is nothing to do.
func (c *Cluster) declare(ctx context.Context, d *desired) error {
	if c.plane == nil {
		return nil
	}
	if err := ofGateways(d.objects); err != nil {
		return err
	}
	next, err := kube.Render(d.objects, c.worldOf(d))
	if err != nil {
		return err
	}
	old := byName(c.declared.Objects)
	var changed, gone []*unstructured.Unstructured
	for _, o := range next.Objects {
		if before := old[nameOf(o)]; before == nil || !reflect.DeepEqual(before.Object, o.Object) || c.lost(ctx, o) {
			changed = append(changed, o)
		}
		delete(old, nameOf(o))
	}
	for _, o := range old {
		gone = append(gone, o)
	}
	stack := c.plane.stack
	// From here on all of it may be there.
	known := c.declared.Objects
	c.declared.Objects = append(append(known[:len(known):len(known)], changed...), gone...)
	if err := stack.Apply(ctx, changed...); err != nil {
		return err
	}
	if err := c.label(ctx, next.Labels); err != nil {
		c.unsure = true
		return err
	}
	if err := c.ready(ctx, next.Unready); err != nil {
		c.unsure = true
		return err
	}
	c.unsure = false
	if err := c.delete(ctx, gone); err != nil {
		return err
	}
	c.declared = next
	return nil
}

// lost reports whether somebody else has deleted a Gateway that was declared.
func (c *Cluster) lost(ctx context.Context, o *unstructured.Unstructured) bool {
	return o.GetKind() == "Gateway" && c.plane.stack.Missing(ctx, o)
}

// delete deletes objects, with what istiod has made for them.
func (c *Cluster) delete(ctx context.Context, gone []*unstructured.Unstructured) error {
	if err := c.plane.stack.Delete(ctx, gone...); err != nil {
		return err
	}
	for _, o := range gone {
		if o.GetKind() == "Gateway" {
			if err := c.plane.stack.ForgetGateway(ctx, namespace, o.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// label brings the labels of pods up to date.
func (c *Cluster) label(ctx context.Context, labels map[string]map[string]string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for name, p := range c.pods {
		if p.spec.Waypoint {
			continue // its labels are those of its Deployment
		}
		if !c.unsure && maps.Equal(labels[name], c.declared.Labels[name]) {
			continue
		}
		g.Go(func() error { return c.plane.stack.LabelPod(ctx, p.object(labels[name])) })
	}
	return g.Wait()
}

// ready makes pods ready, but for some.
func (c *Cluster) ready(ctx context.Context, unready []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for name, p := range c.pods {
		if p.spec.Waypoint {
			continue // ready when its process is
		}
		is := !slices.Contains(unready, name)
		if !c.unsure && is == !slices.Contains(c.declared.Unready, name) {
			continue
		}
		g.Go(func() error { return c.plane.stack.SetReady(ctx, namespace, name, is) })
	}
	return g.Wait()
}

func (c *Cluster) worldOf(d *desired) kube.World {
	w := kube.World{
		Namespace: namespace, Services: map[string][]netip.Addr{}, Pods: map[string]kube.Pod{}, Ranges: c.plane.ranges(),
		Gateways: true,
	}
	for name, s := range d.services {
		w.Services[name] = s.Addresses
	}
	for name, p := range c.pods {
		w.Pods[name] = kube.Pod{Addresses: p.families(), Ports: p.spec.Ports}
	}
	return w
}

func byName(objects []*unstructured.Unstructured) map[string]*unstructured.Unstructured {
	all := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		all[nameOf(o)] = o
	}
	return all
}

func nameOf(o *unstructured.Unstructured) string { return o.GetKind() + "/" + o.GetName() }

// namesProtocol refuses a target whose service declares the port, but for the other
// protocol alone: the workload API cannot say that.
func (c *Cluster) namesProtocol(t scenario.Target) error {
	if c.plane == nil || t.Service == "" {
		return nil
	}
	declared := false
	for _, s := range c.current().objects.Services {
		if s.Name != t.Service {
			continue
		}
		for _, p := range s.Ports {
			if p.Port != t.Port {
				continue
			}
			if (p.Protocol == scenario.UDP) == (t.Protocol == scenario.UDP) {
				return nil
			}
			declared = true
		}
	}
	if declared {
		return fmt.Errorf("%w: %s: istiod's workload API names no protocol, the port is there for both", scenario.ErrNotExpressible, t)
	}
	return nil
}

// ofGateways fails for waypoints that the Gateways of these clusters cannot be.
func ofGateways(o scenario.Objects) error {
	for _, w := range o.Waypoints {
		switch {
		case len(w.Pods) == 0:
			return fmt.Errorf("%w: waypoint %s has no pods: istiod names a waypoint to nobody before an instance of its Gateway is there",
				scenario.ErrNotExpressible, w.Name)
		case w.Codec == scenario.ProxyV2:
			return fmt.Errorf("%w: waypoint %s: a PROXY header under a control plane: these clusters have no Gateway that asks for one",
				scenario.ErrNotExpressible, w.Name)
		}
	}
	return nil
}

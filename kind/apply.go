package kind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/scenario/kube"
)

// applyTime bounds how long a declared state may take to every kernel and Envoy.
const applyTime = 2 * time.Minute

// Apply implements scenario.World: it starts the servers of all endpoints, declares
// o, and returns when every node's agent and each waypoint's Envoy have it, and kube-proxy
// where a pod outside the mesh asks.
func (c *Cluster) Apply(ctx context.Context, o scenario.Objects) error {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	if err := c.allowed(o); err != nil {
		return err
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startServers(both) })
	g.Go(func() error { return c.makeWaypoints(both, o) })
	if err := g.Wait(); err != nil {
		return err
	}
	next, err := c.render(o)
	if err != nil {
		return err
	}
	c.kubeProxies.behind()
	// No service is without endpoints on the way from one to another.
	if err := c.makeReady(ctx, o, true); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := c.declare(ctx, next); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := c.makeReady(ctx, o, false); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	c.kubeProxies.behind()
	c.mu.Lock()
	c.objects = o
	for _, s := range o.Services {
		c.known[s.Name] = true
	}
	c.mu.Unlock()
	if err := c.confirm(ctx, o); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := c.confirmKubeProxies(ctx); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// allowed says what this cluster cannot have of objects.
func (c *Cluster) allowed(o scenario.Objects) error {
	for _, s := range o.Services {
		if s.Family != scenario.IPv4 && !c.cfg.Services6.IsValid() {
			return fmt.Errorf("%w: service %s: the cluster has IPv4 alone", scenario.ErrNotExpressible, s.Name)
		}
	}
	return declarable(c.topology, o)
}

func (c *Cluster) render(o scenario.Objects) (kube.Rendered, error) {
	w := kube.World{
		Namespace: c.namespace, Services: map[string][]netip.Addr{}, Pods: map[string]kube.Pod{},
		Ranges: []netip.Prefix{c.cfg.Services, c.cfg.Services6},
	}
	for _, s := range o.Services {
		at, err := c.vips.of(s)
		if err != nil {
			return kube.Rendered{}, err
		}
		w.Services[s.Name] = at
	}
	for name, p := range c.pods {
		w.Pods[name] = kubePod(p.spec, p.addrs)
	}
	return kube.Render(o, w)
}

// kubePod is a pod as objects are to know it, which has these addresses: those of a
// family alone that is declared with that.
func kubePod(p scenario.Pod, addrs []netip.Addr) kube.Pod {
	known := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !hasFamily(p, a) })
	return kube.Pod{Addresses: known, Ports: p.Ports, Partly: len(known) < len(addrs)}
}

// hasFamily reports whether a pod is declared with addresses of the family of another.
func hasFamily(p scenario.Pod, at netip.Addr) bool {
	return !ofOneFamily(p) || p.Family == familyOf(at)
}

func ofOneFamily(p scenario.Pod) bool { return p.Family == scenario.IPv4 || p.Family == scenario.IPv6 }

// declare applies what changed, labels pods, and deletes what is gone at last, so
// that no service is without endpoints meanwhile.
func (c *Cluster) declare(ctx context.Context, next kube.Rendered) error {
	old := map[string]*unstructured.Unstructured{}
	for _, o := range c.declared {
		old[cluster.Name(o)] = o
	}
	var changed, gone []*unstructured.Unstructured
	for _, o := range next.Objects {
		if before := old[cluster.Name(o)]; before == nil || !reflect.DeepEqual(before.Object, o.Object) {
			changed = append(changed, o.DeepCopy())
		}
		delete(old, cluster.Name(o))
	}
	for _, o := range old {
		gone = append(gone, o)
	}
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, changed...); err != nil {
		return err
	}
	if err := c.labelPods(ctx, next.Labels); err != nil {
		return err
	}
	c.declared = next.Objects
	return c.client.Delete(ctx, nil, gone...)
}

// labelPods gives pods the labels by which services find them, and takes away those
// that they are not to have any more.
func (c *Cluster) labelPods(ctx context.Context, want map[string]map[string]string) error {
	for name := range c.pods {
		if maps.Equal(want[name], c.labels[name]) {
			continue
		}
		labels := map[string]any{}
		for l := range c.labels[name] {
			labels[l] = nil
		}
		for l, v := range want[name] {
			labels[l] = v
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
		if err != nil {
			return err
		}
		_, err = c.client.CoreV1().Pods(c.namespace).Patch(ctx, c.pods[name].name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("label pod %s: %w", name, err)
		}
		c.labels[name] = want[name]
	}
	return nil
}

// startServers starts the servers of all pods that serve and were not stopped.
func (c *Cluster) startServers(ctx context.Context) error {
	var errs []error
	for name, p := range c.pods {
		if p.server == nil && !p.stopped && serves(p.spec) {
			if err := c.startServer(ctx, p); err != nil {
				errs = append(errs, fmt.Errorf("pod %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func serves(p scenario.Pod) bool { return len(p.Serve)+len(p.ServeFirst)+len(p.ServeUDP) > 0 }

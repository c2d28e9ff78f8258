package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/scenario"
)

// gatewayOrders make a waypoint the pod of a Gateway's Deployment, which istiod makes and
// configures: it is started as that Deployment says, with the token of its ServiceAccount.
type gatewayOrders struct {
	waypoint *waypoint
	stack    *controlplane.Stack

	mu      sync.Mutex
	gateway string // whose replica it is; "" is none
	launch  controlplane.Launch
	want    wantedConfig
	leaving bool
	byHand  bool // JoinGateway has made it one: what is applied does not concern it
}

// Files of a waypoint that asks an istiod, in its directory.
const (
	tokenFile = "istio-token"
	rootsFile = "root-cert.pem"
)

func (g *gatewayOrders) file(name string) string { return filepath.Join(g.waypoint.dir, name) }

func (g *gatewayOrders) args() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append(slices.Clone(g.launch.Args), "--source", "xds:"+g.stack.XDSAddress(), "--xds-roots", g.file(rootsFile),
		"--xds-token", g.file(tokenFile), "--name", namespace+"/"+g.gateway)
}

func (g *gatewayOrders) env() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.launch.Env
}

func (g *gatewayOrders) put(ctx context.Context, d *desired) (run bool, err error) {
	name, err := g.waypoint.cluster.gatewayOf(d.objects, g.waypoint.pod)
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	before, byHand := g.gateway, g.byHand
	g.mu.Unlock()
	if byHand {
		return false, nil
	}
	if before != "" && before != name {
		if err := g.part(ctx); err != nil {
			return false, err
		}
	}
	if name == "" {
		return false, nil
	}
	if before != name {
		if before != "" {
			g.waypoint.end(ctx)
		}
		if err := g.join(ctx, name); err != nil {
			return false, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.want = g.waypoint.cluster.wantedOf(d, name)
	return true, nil
}

// join makes the pod a replica: kubelet's work.
func (g *gatewayOrders) join(ctx context.Context, name string) error {
	p := g.waypoint.pod
	launch, err := g.stack.AddGatewayPod(ctx, name, controlplane.Pod{
		Namespace: namespace, Name: p.spec.Name, Node: p.node.name, Addresses: p.families(),
	})
	if err != nil {
		return err
	}
	roots, err := os.ReadFile(g.stack.RootsFile())
	if err == nil {
		err = os.WriteFile(g.file(rootsFile), roots, 0o600)
	}
	if err != nil {
		return fmt.Errorf("give it istiod's roots: %w", err)
	}
	token := controlplane.Token{
		Namespace: namespace, ServiceAccount: launch.ServiceAccount, Pod: p.spec.Name, Audiences: []string{controlplane.Audience},
	}
	if err := g.stack.KeepToken(ctx, token, g.file(tokenFile)); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gateway, g.launch, g.leaving = name, launch, false
	return nil
}

// part takes the pod away: istiod tells the nodes, and the process goes on until then.
func (g *gatewayOrders) part(ctx context.Context) error {
	if err := g.stack.RemovePod(ctx, namespace, g.waypoint.pod.spec.Name); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gateway, g.leaving = "", true
	return nil
}

// has: its Envoy has the routes and endpoints that were declared and, when a service goes
// through it, it takes connections. Without istiod it has what it can have.
func (g *gatewayOrders) has(ctx context.Context, c *api.Client) (bool, error) {
	s, err := c.Status(ctx, "")
	if err != nil {
		return false, err
	}
	if !g.stack.IstiodRuns() {
		return true, nil
	}
	g.mu.Lock()
	want, serves := g.want, g.serves()
	g.mu.Unlock()
	if !serves {
		return true, nil
	}
	if !s.Ready {
		return false, errors.New("it waits for " + s.Waiting)
	}
	if len(want) == 0 {
		return true, nil
	}
	dump, err := c.Get(ctx, "/config")
	if err != nil {
		return false, err
	}
	return want.held(dump, s.Source.Problem)
}

// held reports whether a waypoint's Envoy has what it must; the error says what it lacks,
// with the problem of which the waypoint speaks.
func (want wantedConfig) held(dump []byte, problem string) (bool, error) {
	gap, err := want.missing(dump)
	if err != nil || gap == "" {
		return err == nil, err
	}
	if problem != "" {
		gap += " (" + problem + ")"
	}
	return false, fmt.Errorf("istiod's configuration is not there yet: %s", gap)
}

// lost says that the pod is not ready any more, as kubelet would of a container that has
// ended.
func (g *gatewayOrders) lost(ctx context.Context) error {
	g.mu.Lock()
	serves := g.serves()
	g.mu.Unlock()
	if !serves {
		return nil
	}
	return g.stack.SetReady(ctx, namespace, g.waypoint.pod.spec.Name, false)
}

// serves reports whether services go through it. g.mu must be held.
func (g *gatewayOrders) serves() bool { return g.gateway != "" && (len(g.want) > 0 || g.byHand) }

// settle says that the pod is ready, as kubelet would after its probe.
func (g *gatewayOrders) settle(ctx context.Context, everywhere bool) (leave bool, err error) {
	g.mu.Lock()
	serves := g.serves()
	if everywhere {
		leave, g.leaving = g.leaving, false
	}
	g.mu.Unlock()
	if everywhere || !serves || !g.stack.IstiodRuns() {
		return leave, nil
	}
	return false, g.stack.SetReady(ctx, namespace, g.waypoint.pod.spec.Name, true)
}

// gatewayOf is the waypoint of which a pod is a replica: a pod belongs to one Gateway.
func (c *Cluster) gatewayOf(o scenario.Objects, p *pod) (string, error) {
	is := func(name string) bool { return c.pods[name] != nil && c.pods[name].spec.Waypoint }
	found := ""
	for _, name := range o.WaypointNames() {
		pods, _ := o.WaypointPods(name, is)
		if !slices.Contains(pods, p.spec.Name) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("%w: pod %s is a replica of %s and of %s: a pod belongs to one Gateway",
				scenario.ErrNotExpressible, p.spec.Name, found, name)
		}
		found = name
	}
	return found, nil
}

// JoinGateway makes a waypoint pod a replica of a Gateway that was declared in Kubernetes'
// own words, and returns when it is ready: istiod must have a service for it.
func (c *Cluster) JoinGateway(ctx context.Context, pod, gateway string) error {
	w, g, err := c.gatewayPod(pod)
	if err != nil {
		return err
	}
	if err := g.join(ctx, gateway); err != nil {
		return fmt.Errorf("waypoint %s: %w", pod, err)
	}
	g.mu.Lock()
	g.byHand = true
	g.mu.Unlock()
	return w.start(ctx)
}

// LeaveGateway takes such a pod out of Kubernetes. Its process goes on until EndWaypoint.
func (c *Cluster) LeaveGateway(ctx context.Context, pod string) error {
	_, g, err := c.gatewayPod(pod)
	if err != nil {
		return err
	}
	return g.part(ctx)
}

// EndWaypoint lets the process of a waypoint pod drain and end, and returns when it has.
func (c *Cluster) EndWaypoint(ctx context.Context, pod string) error {
	w, err := c.waypointOf(pod)
	if err != nil {
		return err
	}
	w.end(ctx)
	return nil
}

func (c *Cluster) gatewayPod(pod string) (*waypoint, *gatewayOrders, error) {
	w, err := c.waypointOf(pod)
	if err != nil {
		return nil, nil, err
	}
	g, is := w.orders.(*gatewayOrders)
	if !is {
		return nil, nil, fmt.Errorf("%w: this cluster has no istiod", scenario.ErrNotExpressible)
	}
	return w, g, nil
}

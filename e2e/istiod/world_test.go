package istiod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// fleet is the cluster of these specs: one server beside the client and two
// elsewhere, in two zones.
func fleet() scenario.Topology {
	server := func(name string) scenario.Pod {
		return scenario.Pod{Name: name, Serve: []uint16{8080, 9090}, ServeUDP: []uint16{8053}}
	}
	return scenario.Topology{Mesh: scenario.Duomesh, Agents: true, Nodes: []scenario.Node{
		{
			Name: "a", Place: scenario.Place{Region: "r1", Zone: "z1"},
			Pods: []scenario.Pod{{Name: "client", Managed: true}, server("v1")},
		},
		{Name: "b", Place: scenario.Place{Region: "r1", Zone: "z2"}, Pods: []scenario.Pod{server("v2"), server("v3")}},
	}}
}

// declared is a mesh that is declared in Kubernetes' own words, in place of a
// scenario's objects, and what must come of it.
type declared struct {
	config netsim.Config
	// yaml is applied; %POD% and %POD6% in it are addresses of pods.
	yaml string
	// with applies it in another way; nil is server-side apply.
	with func(ctx context.Context, c *netsim.Cluster, yaml string) error
	// then is done afterwards; nil is nothing.
	then func(ctx context.Context, c *netsim.Cluster) error
	// codec is how the waypoint is told; "" is the usual one.
	codec string
	// routes are, by "address:port" of a service, the shares of its targets,
	// "pod:port": what the agent of the client's node must have before the first
	// connection. No targets: refused.
	routes map[string]map[string]float64
}

// kubeWorld is a cluster whose objects are those of a declared mesh.
type kubeWorld struct {
	*netsim.Cluster
	mesh    declared
	applied string
}

// opener opens such worlds for the judge. Targets name a service by its address.
func (d declared) opener(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	c, err := openWith(ctx, d.config, t)
	if err != nil {
		return nil, err
	}
	return &kubeWorld{Cluster: c, mesh: d}, nil
}

// Apply declares the mesh in Kubernetes and returns when the client's node has it.
func (w *kubeWorld) Apply(ctx context.Context, _ scenario.Objects) error {
	yaml, err := filled(w.Cluster, w.mesh.yaml)
	if err != nil {
		return err
	}
	w.applied = yaml
	with := w.mesh.with
	if with == nil {
		with = func(ctx context.Context, _ *netsim.Cluster, yaml string) error {
			return plane.Stack().ApplyYAML(ctx, yaml)
		}
	}
	if err := with(ctx, w.Cluster, yaml); err != nil {
		return err
	}
	if w.mesh.then != nil {
		if err := w.mesh.then(ctx, w.Cluster); err != nil {
			return err
		}
	}
	if err := w.StartServers(ctx); err != nil {
		return err
	}
	return awaitRoutes(ctx, w.Cluster, w.mesh.routes)
}

// Resolve takes the address of a service for its name.
func (w *kubeWorld) Resolve(t scenario.Target) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(t.Service); err == nil {
		return netip.AddrPortFrom(a, t.Port), nil
	}
	return w.Cluster.Resolve(t)
}

// Close takes away what was applied as well. Pods go before a Gateway of theirs: see
// throughBy.
func (w *kubeWorld) Close() error {
	closed := w.Cluster.Close()
	return errors.Join(closed, remove(w.applied))
}

// remove deletes the objects of a YAML stream.
func remove(yaml string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return plane.Stack().DeleteYAML(ctx, yaml)
}

// filled puts addresses of pods into a text.
func filled(c *netsim.Cluster, text string) (string, error) {
	for _, name := range []string{"client", "v1", "v2", "v3"} {
		p, err := c.Pod(name)
		if err != nil {
			return "", err
		}
		text = strings.NewReplacer("%"+name+"%", p.IPv4.String(), "%"+name+"6%", p.IPv6.String()).Replace(text)
	}
	return text, nil
}

// routeTime bounds how long a change may take to an agent.
const routeTime = 30 * time.Second

// awaitRoutes returns when the client's node sends connections where it is to.
func awaitRoutes(ctx context.Context, c *netsim.Cluster, routes map[string]map[string]float64) error {
	ctx, cancel := context.WithTimeout(ctx, routeTime)
	defer cancel()
	client := api.NewClient(*c.State().Nodes[0].Admin)
	defer client.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for {
		diff, err := lacks(ctx, c, client, routes)
		if err == nil && diff == "" {
			return nil
		}
		if diff != "" {
			last = diff
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the agent does not have what was applied: %s: %w", last, errors.Join(context.Cause(ctx), err))
		}
	}
}

// lacks says in what the routes of a node differ from those wanted.
func lacks(ctx context.Context, c *netsim.Cluster, client *api.Client, routes map[string]map[string]float64) (string, error) {
	got, err := client.Endpoints(ctx)
	if err != nil {
		return "", err
	}
	have := map[string]map[string]float64{}
	for _, f := range got.Frontends {
		if place, ok := strings.CutSuffix(f.Frontend, "/TCP"); ok {
			have[place] = named(c, f.Targets)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(routes)) {
		if targets, ok := have[at]; !ok || !same(targets, routes[at]) {
			return fmt.Sprintf("%s leads to %v, want %v", at, targets, routes[at]), nil
		}
	}
	return "", nil
}

// named writes targets as "pod:port".
func named(c *netsim.Cluster, targets []api.Target) map[string]float64 {
	all := map[string]float64{}
	for _, t := range targets {
		name := t.Address.String()
		for _, n := range c.State().Nodes {
			for _, p := range n.Pods {
				if p.IPv4 == t.Address.Addr() || p.IPv6 == t.Address.Addr() {
					name = fmt.Sprintf("%s:%d", p.Name, t.Address.Port())
				}
			}
		}
		all[name] += t.Share
	}
	return all
}

func same(a, b map[string]float64) bool {
	if len(a) != len(b) {
		return false
	}
	for name, share := range a {
		if other, ok := b[name]; !ok || math.Abs(other-share) > 1e-6 {
			return false
		}
	}
	return true
}

// cluster opens a cluster of the fleet for a spec of its own.
func cluster(ctx SpecContext, t scenario.Topology) *netsim.Cluster {
	GinkgoHelper()
	c := must(openWith(ctx, netsim.Config{}, t))
	DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
	return c
}

// apply applies YAML until the end of the spec.
func apply(ctx SpecContext, c *netsim.Cluster, yaml string) {
	GinkgoHelper()
	yaml = must(filled(c, yaml))
	DeferCleanup(func() { Expect(remove(yaml)).To(Succeed()) })
	Expect(plane.Stack().ApplyYAML(ctx, yaml)).To(Succeed())
}

// statusOf asks the agent of a cluster's first node.
func statusOf(ctx context.Context, c *netsim.Cluster) (api.Status, error) {
	client := api.NewClient(*c.State().Nodes[0].Admin)
	defer client.Close()
	return client.Status(ctx, "")
}

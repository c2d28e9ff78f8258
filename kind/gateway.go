package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// What a waypoint of a Gateway is told, and how its pods are found; docs/waypoint.md.
const (
	handoffAnnotation = "duomesh.io/handoff"
	codecVariable     = "DUOMESH_CODEC"
	gatewayLabel      = "gateway.networking.k8s.io/gateway-name"
	hostnameLabel     = "kubernetes.io/hostname"
)

// gateway is a waypoint: the pods of the topology that are its replicas, and how
// connections are handed to it.
type gateway struct {
	pods  []string
	codec string
}

// gateways are the waypoints of a world, by name.
type gateways map[string]gateway

// add takes in those of o, and returns the names of those that are new. A pod of the
// topology that is no replica of a declared waypoint is one by its own name.
func (g gateways) add(t scenario.Topology, o scenario.Objects) ([]string, error) {
	var added []string
	for _, w := range o.Waypoints {
		codec, _ := o.HandOff(w.Name)
		next := gateway{slices.Sorted(slices.Values(w.Pods)), codec}
		if have, there := g[w.Name]; there {
			if !slices.Equal(have.pods, next.pods) || have.codec != next.codec {
				return nil, fmt.Errorf("%w: waypoint %s gets other replicas, or another codec, on the way: this world makes each once", scenario.ErrNotExpressible, w.Name)
			}
			continue
		}
		for _, p := range next.pods {
			if g.of(p) != "" {
				return nil, fmt.Errorf("%w: pod %s becomes a replica of another waypoint on the way", scenario.ErrNotExpressible, p)
			}
		}
		g[w.Name] = next
		added = append(added, w.Name)
	}
	for _, p := range t.Waypoints() {
		if g.of(p) == "" {
			g[p] = gateway{[]string{p}, scenario.OriginalDst}
			added = append(added, p)
		}
	}
	return added, nil
}

// of is the waypoint that a pod is a replica of; "" where it is none.
func (g gateways) of(pod string) string {
	for name, one := range g {
		if slices.Contains(one.pods, pod) {
			return name
		}
	}
	return ""
}

// makeGateway makes a Gateway, of which istiod makes a Deployment with a pod for each
// replica on its node. One that is to have none has one at first: istiod gives a Gateway
// its address then, and names it to nobody before.
func (c *Cluster) makeGateway(ctx context.Context, name string) error {
	g := c.gateways[name]
	o := cluster.Waypoint(c.namespace, name, "service")
	parameters := map[string]any{"group": "", "kind": "ConfigMap", "name": settingsOf(name)}
	if err := unstructured.SetNestedField(o.Object, parameters, "spec", "infrastructure", "parametersRef"); err != nil {
		return err
	}
	if g.codec != scenario.OriginalDst {
		o.SetAnnotations(map[string]string{handoffAnnotation: g.codec})
	}
	replicas := max(len(g.pods), 1)
	settings, err := c.settings(name, g, replicas)
	if err != nil {
		return err
	}
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, settings, o); err != nil {
		return err
	}
	pods, err := c.awaitGateway(ctx, o, replicas)
	if err != nil {
		return err
	}
	if len(g.pods) > 0 {
		return c.takeReplicas(ctx, g, pods)
	}
	if settings, err = c.settings(name, g, 0); err != nil {
		return err
	}
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, settings); err != nil {
		return err
	}
	_, err = c.awaitGateway(ctx, o, 0)
	return err
}

// settingsOf names the ConfigMap of a Gateway.
func settingsOf(gateway string) string { return "waypoint-" + gateway }

func (c *Cluster) settings(name string, g gateway, replicas int) (*unstructured.Unstructured, error) {
	text, err := c.deployment(name, g, replicas)
	if err != nil {
		return nil, err
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"deployment": text},
	}}
	o.SetName(settingsOf(name))
	o.SetNamespace(c.namespace)
	return o, nil
}

// deployment is what istiod lays over the Deployment of a Gateway.
func (c *Cluster) deployment(name string, g gateway, replicas int) (string, error) {
	pod := map[string]any{}
	if len(g.pods) > 0 {
		var nodes []string
		for _, p := range g.pods {
			nodes = append(nodes, c.nodes[c.pods[p].node])
		}
		pod["affinity"] = map[string]any{
			"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
				"nodeSelectorTerms": []any{map[string]any{
					"matchExpressions": []any{map[string]any{"key": hostnameLabel, "operator": "In", "values": nodes}},
				}},
			}},
			"podAntiAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": []any{map[string]any{
				"topologyKey": hostnameLabel, "labelSelector": map[string]any{"matchLabels": map[string]any{gatewayLabel: name}},
			}}},
		}
	}
	if g.codec != scenario.OriginalDst {
		pod["containers"] = []any{map[string]any{
			"name": "istio-proxy", "env": []any{map[string]any{"name": codecVariable, "value": g.codec}},
		}}
	}
	text, err := json.Marshal(map[string]any{"spec": map[string]any{
		"replicas": replicas, "template": map[string]any{"spec": pod},
	}})
	return string(text), err
}

// awaitGateway returns the pods of a Gateway when it has an address and as many as it is
// to have, and they are ready.
func (c *Cluster) awaitGateway(ctx context.Context, gateway *unstructured.Unstructured, replicas int) (pods []corev1.Pod, err error) {
	name := gateway.GetName()
	known, err := c.client.Resource(gateway)
	if err != nil {
		return nil, err
	}
	err = cluster.Await(ctx, func(ctx context.Context) (string, error) {
		list, err := c.client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: gatewayLabel + "=" + name})
		if err != nil {
			return "", err
		}
		pods = list.Items
		if len(pods) != replicas {
			return fmt.Sprintf("Gateway %s has %d pods, not %d", name, len(pods), replicas), nil
		}
		for i := range pods {
			if !ready(&pods[i]) {
				return "pod " + pods[i].Name + " is not ready " + lastWords(&pods[i]), nil
			}
		}
		o, err := known.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if at, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses"); len(at) == 0 {
			return "istiod has given Gateway " + name + " no address", nil
		}
		return "", nil
	})
	return pods, err
}

// takeReplicas makes each of a Gateway's pods the pod of the topology of its node.
func (c *Cluster) takeReplicas(ctx context.Context, g gateway, pods []corev1.Pod) error {
	for _, replica := range g.pods {
		p := c.pods[replica]
		at := slices.IndexFunc(pods, func(o corev1.Pod) bool { return o.Spec.NodeName == c.nodes[p.node] })
		if at < 0 {
			return fmt.Errorf("no replica is on node %s", c.nodes[p.node])
		}
		p.name = pods[at].Name
		if err := c.awaitPod(ctx, p, false); err != nil {
			return fmt.Errorf("pod %s: %w", replica, err)
		}
		if err := c.reach(ctx, replica); err != nil {
			return err
		}
	}
	return nil
}

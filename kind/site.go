package kind

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
)

// site is where a node stands, by its labels; what it does not say is one place.
type site struct{ region, zone string }

func siteOf(n corev1.Node) site {
	return site{n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelTopologyZone]}
}

// shared is how near two nodes are: 2 in one zone, 1 in one region alone, else 0. A zone's
// name says something within its region.
func (s site) shared(other site) int {
	switch {
	case s.region != other.region:
		return 0
	case s.zone != other.zone:
		return 1
	}
	return 2
}

// sameNode is the rank of an endpoint on the caller's own node, where that is preferred.
const sameNode = 3

// rank says how near an endpoint is to a caller, as far as the policy asks: the highest are
// chosen.
func (c *Cluster) rank(b scenario.Balance, caller, endpoint string) int {
	switch {
	case b.Mode == intent.Any:
		return 0
	case byNode(b) && caller == endpoint:
		return sameNode
	}
	return c.sites[caller].shared(c.sites[endpoint])
}

// byNode reports whether a policy's nearest place is the node.
func byNode(b scenario.Balance) bool {
	return len(b.Prefer) > 0 && b.Prefer[len(b.Prefer)-1] == intent.ScopeNode
}

// chooseNodes gives each node of the topology one of the cluster.
func (c *Cluster) chooseNodes(ctx context.Context) error {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	names, sites := candidates(list.Items), map[string]site{}
	for _, n := range list.Items {
		sites[n.Name] = siteOf(n)
	}
	nodes := c.topology.Nodes
	if len(names) < len(nodes) {
		return fmt.Errorf("%w: %d nodes: the cluster has %d that take pods", scenario.ErrNotExpressible, len(nodes), len(names))
	}
	chosen := map[string]string{}
	if !choose(nodes, names, sites, chosen) {
		return fmt.Errorf("%w: nodes in regions and zones of their own: by their labels %s and %s the cluster has none that stand to each other so",
			scenario.ErrNotExpressible, corev1.LabelTopologyRegion, corev1.LabelTopologyZone)
	}
	for _, n := range nodes {
		c.nodes[n.Name], c.sites[n.Name] = chosen[n.Name], sites[chosen[n.Name]]
	}
	return nil
}

// candidates are the nodes that can have pods which name them: those from which nothing
// keeps pods off, then control planes, whose own taint does not hold for such a pod.
func candidates(nodes []corev1.Node) []string {
	var names, planes []string
	for _, n := range nodes {
		taints := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectPreferNoSchedule })
		switch {
		case len(taints) == 0:
			names = append(names, n.Name)
		case len(taints) == 1 && taints[0].Key == controlPlane && taints[0].Effect == corev1.TaintEffectNoSchedule:
			planes = append(planes, n.Name)
		}
	}
	slices.Sort(names)
	slices.Sort(planes)
	return append(names, planes...)
}

// controlPlane is the taint of a control plane.
const controlPlane = "node-role.kubernetes.io/control-plane"

// choose adds to the nodes that have a name those that have none yet, so that the ones with
// a place stand to each other as the topology says. It reports whether there are such.
func choose(nodes []scenario.Node, names []string, sites map[string]site, chosen map[string]string) bool {
	next := slices.IndexFunc(nodes, func(n scenario.Node) bool { return chosen[n.Name] == "" && placed(n) })
	if next < 0 { // the others may be anywhere
		next = slices.IndexFunc(nodes, func(n scenario.Node) bool { return chosen[n.Name] == "" })
	}
	if next < 0 {
		return true
	}
	n := nodes[next]
	for _, name := range names {
		if taken(chosen, name) || !stands(nodes, n, name, sites, chosen) {
			continue
		}
		chosen[n.Name] = name
		if choose(nodes, names, sites, chosen) {
			return true
		}
		delete(chosen, n.Name)
		if !placed(n) {
			return false // another name is as good
		}
	}
	return false
}

func placed(n scenario.Node) bool { return n.Place != scenario.Place{} }

func taken(chosen map[string]string, name string) bool {
	for _, other := range chosen {
		if other == name {
			return true
		}
	}
	return false
}

// stands reports whether a node's place by those of the ones that have a name is that of
// its own name by theirs.
func stands(nodes []scenario.Node, n scenario.Node, name string, sites map[string]site, chosen map[string]string) bool {
	if !placed(n) {
		return true
	}
	for _, other := range nodes {
		if chosen[other.Name] == "" || !placed(other) {
			continue
		}
		asked := site{n.Place.Region, n.Place.Zone}.shared(site{other.Place.Region, other.Place.Zone})
		if asked != sites[name].shared(sites[chosen[other.Name]]) {
			return false
		}
	}
	return true
}

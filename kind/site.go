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

// chooseNodes gives each node of the topology one of the cluster that takes pods.
func (c *Cluster) chooseNodes(ctx context.Context) error {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var names []string
	sites := map[string]site{}
	for _, n := range list.Items {
		if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoSchedule }) {
			names = append(names, n.Name)
			sites[n.Name] = siteOf(n)
		}
	}
	slices.Sort(names)
	nodes := c.topology.Nodes
	if len(names) < len(nodes) {
		return fmt.Errorf("%w: %d nodes: the cluster has %d that take pods", scenario.ErrNotExpressible, len(nodes), len(names))
	}
	chosen := placed(nodes, nil, names, sites)
	if chosen == nil {
		return fmt.Errorf("%w: nodes in regions and zones of their own: by their labels %s and %s the cluster has none that stand to each other so",
			scenario.ErrNotExpressible, corev1.LabelTopologyRegion, corev1.LabelTopologyZone)
	}
	for i, n := range nodes {
		c.nodes[n.Name], c.sites[n.Name] = chosen[i], sites[chosen[i]]
	}
	return nil
}

// placed adds to the names that the first nodes have those of the others, so that nodes
// with a place stand to each other as the topology says; nil when there are none.
func placed(nodes []scenario.Node, chosen, names []string, sites map[string]site) []string {
	i := len(chosen)
	if i == len(nodes) {
		return chosen
	}
	for _, name := range names {
		if slices.Contains(chosen, name) || !stands(nodes[:i], nodes[i], chosen, sites, name) {
			continue
		}
		if all := placed(nodes, append(slices.Clip(chosen), name), names, sites); all != nil {
			return all
		}
	}
	return nil
}

// stands reports whether a node's place by those of the ones before is that of its name by
// theirs.
func stands(before []scenario.Node, n scenario.Node, chosen []string, sites map[string]site, name string) bool {
	none := scenario.Place{}
	for i, other := range before {
		if n.Place == none || other.Place == none {
			continue
		}
		asked := site{n.Place.Region, n.Place.Zone}.shared(site{other.Place.Region, other.Place.Zone})
		if asked != sites[name].shared(sites[chosen[i]]) {
			return false
		}
	}
	return true
}

package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// What agents are told and tell; docs/kubernetes.md.
const (
	modeLabel             = "istio.io/dataplane-mode"
	redirectionAnnotation = "kmesh.net/redirection"
)

// agent is the agent of one node, asked in the node's own network namespace.
type agent struct {
	node   string // the topology's name
	client *api.Client
}

func (c *Cluster) findAgents(ctx context.Context) error {
	for _, n := range c.topology.Nodes {
		for _, spec := range n.Pods {
			p := c.pods[spec.Name]
			if p.place == nil || spec.Waypoint {
				continue // istiod's pod may be on any node
			}
			a := agent{n.Name, api.NewClient(api.Place{Address: api.AdminAddress, Netns: netnsPath(p.place.node)})}
			c.agents = append(c.agents, a)
			break
		}
	}
	return c.eachAgent(ctx, func(ctx context.Context, a agent) error {
		_, err := a.client.Status(ctx, "")
		return err
	})
}

func (c *Cluster) eachAgent(ctx context.Context, do func(context.Context, agent) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range c.agents {
		g.Go(func() error {
			if err := do(ctx, a); err != nil {
				return fmt.Errorf("agent of node %s: %w", c.nodes[a.node], err)
			}
			return nil
		})
	}
	return g.Wait()
}

// label sets the label by which a pod enters or leaves, and returns when the agent
// has confirmed it on the pod.
func (c *Cluster) label(ctx context.Context, name string, in bool) error {
	p, err := c.pod(name)
	if err != nil {
		return err
	}
	mode := "none"
	if in {
		mode = c.cfg.mode()
	}
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, modeLabel, mode)
	if _, err := c.client.CoreV1().Pods(c.namespace).Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label pod %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	err = cluster.Await(ctx, func(ctx context.Context) (string, error) {
		o, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, p.name, metav1.GetOptions{})
		if err == nil && (o.Annotations[c.cfg.confirmation()] == "enabled") != in {
			return "the agent has not confirmed label " + mode + " of pod " + name, nil
		}
		return "", err
	})
	if err == nil {
		c.setManaged(name, in)
	}
	return err
}

// agentPod is the pod of a node's agent.
func (c *Cluster) agentPod(ctx context.Context, node string) (*corev1.Pod, error) {
	list, err := c.client.CoreV1().Pods(c.cfg.System).List(ctx, metav1.ListOptions{
		LabelSelector: cluster.AgentSelector, FieldSelector: "spec.nodeName=" + c.nodes[node],
	})
	if err != nil {
		return nil, fmt.Errorf("agent of node %s: %w", node, err)
	}
	at := slices.IndexFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil })
	if at < 0 {
		return nil, fmt.Errorf("node %s has no agent", node)
	}
	return &list.Items[at], nil
}

// killAgent ends the process of a node's agent by SIGKILL. Kubelet starts another.
func (c *Cluster) killAgent(ctx context.Context, node string) error {
	at := slices.IndexFunc(c.agents, func(a agent) bool { return a.node == node })
	if at < 0 {
		return fmt.Errorf("node %s has no agent", node)
	}
	p, err := c.agentPod(ctx, node)
	if err != nil {
		return err
	}
	return killContainers(p)
}

// startAgent returns when a node's agent answers and has a state: kubelet starts it.
func (c *Cluster) startAgent(ctx context.Context, node string) error {
	at := slices.IndexFunc(c.agents, func(a agent) bool { return a.node == node })
	if at < 0 {
		return fmt.Errorf("node %s has no agent", node)
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		ask, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		s, err := c.agents[at].client.Status(ask, "")
		switch {
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return "", err
		case err != nil:
			return "the agent does not answer: " + err.Error(), nil
		case s.Applied.Generation == 0:
			return "the agent has no state yet: " + s.Source.Error, nil
		}
		return "", nil
	})
}

// Exits says how the connections of a pod's node have ended since its agent's maps
// were made, by the names of the decision table.
func (c *Cluster) Exits(ctx context.Context, pod string) (map[string]uint64, error) {
	p, err := c.pod(pod)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(c.agents, func(a agent) bool { return a.node == p.node })
	if at < 0 {
		return nil, fmt.Errorf("node %s has no agent", p.node)
	}
	e, err := c.agents[at].client.Exits(ctx)
	if err != nil {
		return nil, fmt.Errorf("agent of node %s: %w", c.nodes[p.node], err)
	}
	return e.Exits, nil
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/duomesh/duomesh/internal/cluster"
)

// unclean says of nodes why what an agent did there may still be there.
type unclean map[string]string

func (u unclean) err(namespace string) error {
	if len(u) == 0 {
		return nil
	}
	words := "what an agent did to a node may still be on these; with the CNI plugin in its chain no new pod starts there:"
	commands := ""
	for _, node := range slices.Sorted(maps.Keys(u)) {
		words += fmt.Sprintf("\n  %s: %s", node, u[node])
		commands += " --node " + node
	}
	if namespace != defaultNamespace {
		commands += " --namespace " + namespace
	}
	return fmt.Errorf("%s\nwhen they run, clean them by (with the --set and --values of the installation)\n  duomesh uninstall%s", words, commands)
}

// ending ends the agents of a cluster, and holds which nodes they cannot have cleaned.
type ending struct {
	c         *cluster.Client
	namespace string
	done      func(*unstructured.Unstructured)
	unclean   unclean
	// down are the nodes on which no pod can end.
	down map[string]bool
}

// run deletes the DaemonSet and returns when every agent has ended that can, or after
// the patience.
func (e *ending) run(ctx context.Context, patience time.Duration, agents []*unstructured.Unstructured) error {
	if err := e.look(ctx); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	left, err := e.await(short, func() error {
		return e.c.Remove(ctx, cluster.DeleteOptions{NoWait: true}, agents...)
	})
	for _, node := range left {
		e.unclean[node] = cmp.Or(e.unclean[node], fmt.Sprintf("its agent had not ended after %s", patience))
	}
	if err != nil || len(left) > 0 || len(e.down) > 0 {
		return err // the DaemonSet goes with its last pod
	}
	for _, o := range agents {
		if err := e.c.Gone(short, o); err != nil {
			return err
		}
		e.done(o)
	}
	return nil
}

// look sees which agents are ready before they are told to end: one that is not can
// have put the plugin there, and does not take it away.
func (e *ending) look(ctx context.Context) error {
	e.unclean, e.down = unclean{}, map[string]bool{}
	pods, err := agentPods(ctx, e.c, e.namespace)
	if err != nil {
		return err
	}
	d, err := e.c.AppsV1().DaemonSets(e.namespace).Get(ctx, agentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		d = nil
	} else if err != nil {
		return fmt.Errorf("look for the agents in namespace %s: %w", e.namespace, err)
	}
	nodes, err := e.c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if why := e.ofNode(n, pods, d); why != "" {
			e.unclean[n.Name] = why
		}
	}
	return nil
}

// ofNode is why the agent of a node cannot clean it; "" when it can, or has no agent.
func (e *ending) ofNode(n *corev1.Node, pods []corev1.Pod, d *appsv1.DaemonSet) string {
	why := ""
	if d != nil && d.DeletionTimestamp == nil && runsOn(d, n) {
		why = "no agent runs there"
	}
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName != n.Name {
			continue
		}
		if !nodeReady(n) {
			e.down[n.Name] = true
			return "the node is not ready"
		}
		if why = waiting(p); why == "" {
			return ""
		}
		why = "its agent was not ready: " + why
	}
	return why
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// runsOn reports whether a node is one that the DaemonSet is for. Taints of
// Kubernetes' own keep no DaemonSet away.
func runsOn(d *appsv1.DaemonSet, n *corev1.Node) bool {
	spec := d.Spec.Template.Spec
	if !labels.SelectorFromSet(spec.NodeSelector).Matches(labels.Set(n.Labels)) {
		return false
	}
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			continue
		}
		if !slices.ContainsFunc(spec.Tolerations, func(one corev1.Toleration) bool { return one.ToleratesTaint(t) }) {
			return false
		}
	}
	return true
}

// await tells the agents to end, and returns when none is left but on nodes that are
// down, or else the nodes on which one is when ctx ends. It watches before they are told:
// how each has ended is in its last state, and one that failed cannot be taken to have
// cleaned.
func (e *ending) await(ctx context.Context, tell func() error) ([]string, error) {
	left, told := map[string]*corev1.Pod{}, false
	source := cache.NewFilteredListWatchFromClient(e.c.CoreV1().RESTClient(), "pods", e.namespace,
		func(o *metav1.ListOptions) { o.LabelSelector = cluster.AgentSelector })
	begin := func(store cache.Store) (bool, error) {
		for _, o := range store.List() {
			if p, ok := o.(*corev1.Pod); ok {
				e.see(left, apiwatch.Event{Type: apiwatch.Added, Object: p})
			}
		}
		err := tell()
		told = err == nil
		return len(left) == 0, err
	}
	_, err := watchtools.UntilWithSync(ctx, source, &corev1.Pod{}, begin, func(event apiwatch.Event) (bool, error) {
		e.see(left, event)
		return len(left) == 0, nil
	})
	if err != nil && (!told || ctx.Err() == nil) {
		return nil, fmt.Errorf("have the agents end: %w", err)
	}
	var nodes []string
	for _, p := range left {
		nodes = append(nodes, p.Spec.NodeName)
	}
	return nodes, nil
}

func (e *ending) see(left map[string]*corev1.Pod, event apiwatch.Event) {
	p, ok := event.Object.(*corev1.Pod)
	if !ok || p.Spec.NodeName == "" || e.down[p.Spec.NodeName] {
		return
	}
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			words := fmt.Sprintf("its agent ended with code %d: %s", t.ExitCode, cmp.Or(strings.TrimSpace(t.Message), t.Reason))
			e.unclean[p.Spec.NodeName] = cmp.Or(e.unclean[p.Spec.NodeName], words)
		}
	}
	if event.Type == apiwatch.Deleted {
		delete(left, p.Name)
	} else {
		left[p.Name] = p
	}
}

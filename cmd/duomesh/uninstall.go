package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

func newUninstallCmd() *cobra.Command {
	var f releaseFlags
	var nodes []string
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take the agents, and all that they did to the nodes, from a Kubernetes cluster",
		Long: "Take the agents from a Kubernetes cluster. Each takes its programs and its CNI plugin from its node\n" +
			"when it ends. A node whose agent cannot have done that (it was not ready, the node is down) is named at\n" +
			"the end, and the exit code is 1: the plugin may be in its chain, and then no new pod starts there.\n" +
			"--node cleans such a node by a pod of the agent's image in namespace " + cleanNamespace + ".",
		Example: "  duomesh uninstall\n  duomesh uninstall --node worker-3",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			if len(nodes) > 0 {
				return cleanNodes(ctx, f, nodes, cmd.OutOrStdout())
			}
			return runUninstall(ctx, f, cmd.OutOrStdout())
		},
	}
	f.define(cmd)
	cmd.Flags().StringArrayVar(&nodes, "node", nil, "`NAME` of a node that is cleaned of what an agent left there, and nothing else; may be repeated")
	return cmd
}

func runUninstall(ctx context.Context, f releaseFlags, out io.Writer) error {
	rendered, err := f.objects()
	if err != nil {
		return err
	}
	c, err := f.cluster.open(ctx)
	if err != nil {
		return err
	}
	all, err := f.installed(ctx, c, rendered)
	if err != nil {
		return err
	}
	// The agents first: they need their rights to the end.
	isAgents := func(o *unstructured.Unstructured) bool { return o.GetKind() == "DaemonSet" }
	done := func(o *unstructured.Unstructured) { fmt.Fprintf(out, "deleted %s\n", cluster.Name(o)) }
	e := ending{c: c, namespace: f.namespace, done: done}
	failed := e.run(ctx, f.timeout*2/3, slices.DeleteFunc(slices.Clone(all), func(o *unstructured.Unstructured) bool { return !isAgents(o) }))
	// Whatever a node keeps, istiod is to put no image of ours into waypoints any more.
	options := cluster.DeleteOptions{Dependents: metav1.DeletePropagationBackground, Done: done}
	for _, o := range slices.Backward(slices.DeleteFunc(slices.Clone(all), isAgents)) {
		failed = errors.Join(failed, c.Remove(ctx, options, o))
	}
	failed = errors.Join(failed, e.deleteNamespace(ctx, out))
	if len(all) == 0 && failed == nil && len(e.unclean) == 0 {
		fmt.Fprintln(out, "there is nothing to uninstall")
	}
	return errors.Join(failed, e.unclean.err(f.namespace))
}

// deleteNamespace deletes the namespace that makeNamespace made. It stays as long as a
// node that is down has a pod in it.
func (e *ending) deleteNamespace(ctx context.Context, out io.Writer) error {
	ns, err := e.c.CoreV1().Namespaces().Get(ctx, e.namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && ns.Labels[managedBy] != "duomesh" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for namespace %s: %w", e.namespace, err)
	}
	pods, err := agentPods(ctx, e.c, e.namespace)
	if err != nil {
		return err
	}
	options := cluster.DeleteOptions{Done: e.done}
	if len(pods) > 0 {
		options.NoWait = true
		options.Done = func(o *unstructured.Unstructured) {
			fmt.Fprintf(out, "%s ends when the last agent has, or its node is deleted\n", cluster.Name(o))
		}
	}
	return e.c.Remove(ctx, options, namespaceObject(e.namespace))
}

// The labels of what the chart makes, and of the ConfigMaps that istiod merges into
// the waypoints of a class.
const (
	ofChart          = "app.kubernetes.io/name=" + agentName + ",app.kubernetes.io/part-of=duomesh"
	defaultsForClass = "gateway.istio.io/defaults-for-class"
)

// installed are the objects of the chart that the cluster has, whatever the values they
// were installed with: those that the flags name, and those with the chart's labels.
func (f releaseFlags) installed(ctx context.Context, c *cluster.Client, rendered []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	kinds := append(slices.Clone(rendered), &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}})
	seen := map[string]bool{}
	var all []*unstructured.Unstructured
	var elsewhere []string
	agents := false
	for _, kind := range kinds {
		if seen[kind.GetKind()] {
			continue
		}
		seen[kind.GetKind()] = true
		list, err := c.List(ctx, kind, "", ofChart)
		if err != nil {
			return nil, err
		}
		for i := range list {
			o := &list[i]
			ours := o.GetNamespace() == "" || o.GetNamespace() == f.namespace
			switch {
			case ours || o.GetLabels()[defaultsForClass] != "":
				all = append(all, o)
				agents = agents || o.GetKind() == "DaemonSet"
			case o.GetKind() == "DaemonSet":
				elsewhere = append(elsewhere, o.GetNamespace())
			}
		}
	}
	if !agents && len(elsewhere) > 0 {
		return nil, usagef("no agents are in namespace %s: they are in %s (--namespace)", f.namespace, strings.Join(elsewhere, ", "))
	}
	return inOrder(all, rendered), nil
}

// inOrder sorts objects by the order of kinds in which the chart is applied, and those
// outside the agents' own namespace last, to be deleted first.
func inOrder(all, rendered []*unstructured.Unstructured) []*unstructured.Unstructured {
	place := func(o *unstructured.Unstructured) int {
		if o.GetLabels()[defaultsForClass] != "" {
			return len(rendered)
		}
		return slices.IndexFunc(rendered, func(r *unstructured.Unstructured) bool { return r.GetKind() == o.GetKind() })
	}
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int { return place(a) - place(b) })
	return all
}

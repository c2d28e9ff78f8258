package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

// completionTime bounds how long somebody who types waits for a cluster.
const completionTime = 2 * time.Second

// ofCluster asks the cluster that the flags and the environment name; nobody answers where
// none is named.
func ofCluster(cmd *cobra.Command, ask func(context.Context, *cluster.Client, string) ([]string, error)) []string {
	where := cluster.Where{Kubeconfig: flagOf(cmd, "kubeconfig"), Context: flagOf(cmd, "context")}
	if where == (cluster.Where{}) && os.Getenv("KUBECONFIG") == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c, err := where.Open()
	if err != nil {
		return nil
	}
	namespace := flagOf(cmd, "namespace")
	if namespace == "" {
		namespace = c.Namespace
	}
	all, err := ask(ctx, c, namespace)
	if err != nil {
		return nil
	}
	return all
}

// namesOf are those of a kind's objects, in the namespace that the flags name where they
// are in one.
func namesOf(cmd *cobra.Command, kind string, inNamespace bool) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, namespace string) ([]string, error) {
		if !inNamespace {
			namespace = metav1.NamespaceAll
		}
		list, err := c.List(ctx, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}, namespace, "")
		var all []string
		for i := range list {
			all = append(all, list[i].GetName())
		}
		return all, err
	})
}

func namespaces(cmd *cobra.Command, _ []string) []string   { return namesOf(cmd, "Namespace", false) }
func clusterNodes(cmd *cobra.Command, _ []string) []string { return namesOf(cmd, "Node", false) }
func services(cmd *cobra.Command, _ []string) []string     { return namesOf(cmd, "Service", true) }

// allPods are NAMESPACE/NAME.
func allPods(cmd *cobra.Command) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, _ string) ([]string, error) {
		list, err := c.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		var all []string
		for i := range list.Items {
			all = append(all, list.Items[i].Namespace+"/"+list.Items[i].Name)
		}
		return all, nil
	})
}

func clusterWaypoints(cmd *cobra.Command, _ []string) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, namespace string) (all []string, err error) {
		list, err := c.List(ctx, cluster.Waypoint("", "", ""), namespace, "")
		if err != nil {
			return nil, err
		}
		for i := range list {
			if classOf(&list[i]) == cluster.WaypointClass {
				all = append(all, list[i].GetName())
			}
		}
		return all, nil
	})
}

// enrollable is what to enroll, and then its names.
func enrollable(cmd *cobra.Command, args []string) []string {
	if len(args) == 0 {
		return []string{"namespace", "pod"}
	}
	switch args[0] {
	case "namespace", "namespaces", "ns":
		return namespaces(cmd, nil)
	case "pod", "pods", "po":
		return namesOf(cmd, "Pod", true)
	}
	return nil
}

// waypointNames are those of simulated pods, or of the cluster.
func waypointNames(cmd *cobra.Command, _ []string) []string {
	return append(partsOf(simulated(cmd), false, waypointPod), clusterWaypoints(cmd, nil)...)
}

// nodeNames are those of simulated nodes, or of the cluster.
func nodeNames(cmd *cobra.Command, _ []string) []string {
	return append(partsOf(simulated(cmd), true, noPod), clusterNodes(cmd, nil)...)
}

// podsToName are simulated pods, or those of the cluster: a waypoint's replicas are in the
// namespace that is named.
func podsToName(cmd *cobra.Command, args []string) []string {
	if cmd.Flag("namespace") != nil {
		return append(simulatedPods(cmd, args), namesOf(cmd, "Pod", true)...)
	}
	return append(simulatedPods(cmd, args), allPods(cmd)...)
}

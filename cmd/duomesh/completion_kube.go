package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/cluster"
)

// completionTime bounds how long somebody who types waits for a cluster.
const completionTime = 3 * time.Second

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

// inList is what is read of an object of any kind.
type inList struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct{ GatewayClassName string }
}

// objectsAt are the objects at a path of the API. What a cluster knows is not discovered
// before, which takes seconds.
func objectsAt(ctx context.Context, c *cluster.Client, path ...string) ([]inList, error) {
	text, err := c.CoreV1().RESTClient().Get().AbsPath(path...).SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list struct{ Items []inList }
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// namesOf are those of objects of a kind, in the namespace that the flags name where they
// are in one.
func namesOf(cmd *cobra.Command, resource string, inNamespace bool) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, namespace string) ([]string, error) {
		path := []string{"/api/v1", resource}
		if inNamespace {
			path = []string{"/api/v1/namespaces", namespace, resource}
		}
		list, err := objectsAt(ctx, c, path...)
		var all []string
		for _, o := range list {
			all = append(all, o.Metadata.Name)
		}
		return all, err
	})
}

func namespaces(cmd *cobra.Command, _ []string) []string   { return namesOf(cmd, "namespaces", false) }
func clusterNodes(cmd *cobra.Command, _ []string) []string { return namesOf(cmd, "nodes", false) }
func services(cmd *cobra.Command, _ []string) []string     { return namesOf(cmd, "services", true) }

// allPods are NAMESPACE/NAME.
func allPods(cmd *cobra.Command) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, _ string) ([]string, error) {
		list, err := objectsAt(ctx, c, "/api/v1/pods")
		var all []string
		for _, o := range list {
			all = append(all, o.Metadata.Namespace+"/"+o.Metadata.Name)
		}
		return all, err
	})
}

func clusterWaypoints(cmd *cobra.Command, _ []string) []string {
	return ofCluster(cmd, func(ctx context.Context, c *cluster.Client, namespace string) ([]string, error) {
		list, err := objectsAt(ctx, c, "/apis", gatewayGroup, "v1/namespaces", namespace, "gateways")
		var all []string
		for _, o := range list {
			if o.Spec.GatewayClassName == cluster.WaypointClass {
				all = append(all, o.Metadata.Name)
			}
		}
		return all, err
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
		return namesOf(cmd, "pods", true)
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
		return append(simulatedPods(cmd, args), namesOf(cmd, "pods", true)...)
	}
	return append(simulatedPods(cmd, args), allPods(cmd)...)
}

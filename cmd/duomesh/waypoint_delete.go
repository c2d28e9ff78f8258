package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

func newWaypointDeleteCmd() *cobra.Command {
	var f gatewayFlags
	var wait bool
	var system string
	cmd := &cobra.Command{
		Use: "delete [NAME]", Short: "Delete a waypoint, after whatever uses it does so no more", Args: atMostOne,
		Long: "Delete a waypoint, after whatever uses it does so no more: it takes label " + useWaypoint + "\n" +
			"from services, ServiceEntries, workloads and namespaces of the whole cluster that name it, and\n" +
			"waits until every agent has heard of it. Pods get the label again where their template has it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			c, err := f.open(ctx)
			if err != nil {
				return err
			}
			name, out := waypointNamed(args), cmd.OutOrStdout()
			if _, err := getGateway(ctx, c, f.namespace, name); err != nil {
				return err
			}
			if err := leaveWaypoint(ctx, c, f.namespace+"/"+name, out); err != nil {
				return err
			}
			if wait {
				if err := awaitLeft(ctx, c, system, f.namespace+"/"+name); err != nil {
					return fmt.Errorf("waypoint %s/%s stays until no agent hands it connections (--wait=false deletes it all the same): %w", f.namespace, name, err)
				}
			}
			done := func(*unstructured.Unstructured) { fmt.Fprintf(out, "deleted waypoint %s/%s\n", f.namespace, name) }
			return c.Delete(ctx, done, cluster.Waypoint(f.namespace, name, ""))
		},
	}
	f.define(cmd)
	cmd.Flags().BoolVar(&wait, "wait", true, "delete it when every agent has heard that nothing uses it")
	cmd.Flags().StringVar(&system, "system-namespace", defaultNamespace, "`NAMESPACE` of the agents")
	return cmd
}

// useLabels is a patch that lets an object use a waypoint of its own namespace; "" is none.
func useLabels(name string) []byte {
	var value any
	if name != "" {
		value = name
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{useWaypoint: value, useWaypointOf: nil}}})
	if err != nil {
		panic(err) // texts in maps can always be encoded
	}
	return patch
}

// waypointUsers are whatever names a waypoint by its own labels, by the waypoint's
// namespace and name.
func waypointUsers(ctx context.Context, c *cluster.Client) (map[string][]*unstructured.Unstructured, error) {
	all := map[string][]*unstructured.Unstructured{}
	for _, kind := range [][2]string{
		{"v1", "Namespace"}, {"v1", "Service"}, {"v1", "Pod"},
		{"networking.istio.io/v1", "ServiceEntry"}, {"networking.istio.io/v1", "WorkloadEntry"},
	} {
		of := &unstructured.Unstructured{Object: map[string]any{"apiVersion": kind[0], "kind": kind[1]}}
		known, err := c.Has(of.GroupVersionKind().Group, kind[1])
		if err != nil {
			return nil, err
		}
		if !known {
			continue
		}
		list, err := c.List(ctx, of, "", useWaypoint)
		if err != nil {
			return nil, err
		}
		for i := range list {
			o := &list[i]
			name := waypointOf(o)
			all[name] = append(all[name], o)
		}
	}
	return all, nil
}

// waypointOf is the waypoint that the labels of an object name.
func waypointOf(o *unstructured.Unstructured) string {
	labels, namespace := o.GetLabels(), o.GetNamespace()
	if namespace == "" {
		namespace = o.GetName()
	}
	if other := labels[useWaypointOf]; other != "" {
		namespace = other
	}
	return namespace + "/" + labels[useWaypoint]
}

// leaveWaypoint takes the labels from whatever uses a waypoint.
func leaveWaypoint(ctx context.Context, c *cluster.Client, name string, out io.Writer) error {
	all, err := waypointUsers(ctx, c)
	if err != nil {
		return err
	}
	for _, o := range all[name] {
		r, err := c.Resource(o)
		if err != nil {
			return err
		}
		if _, err := r.Patch(ctx, o.GetName(), types.MergePatchType, useLabels(""), metav1.PatchOptions{FieldManager: cluster.Manager}); err != nil {
			return fmt.Errorf("take label %s from %s: %w", useWaypoint, cluster.Name(o), err)
		}
		fmt.Fprintf(out, "%s uses it no more\n", cluster.Name(o))
	}
	return nil
}

// awaitLeft returns when no agent sends connections to a waypoint any more.
func awaitLeft(ctx context.Context, c *cluster.Client, system, name string) error {
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		pods, err := agentPods(ctx, c, system)
		if err != nil {
			return "the agents cannot be listed", err
		}
		for i := range pods {
			d := agentDesk(c, &pods[i])
			left, err := askOne(ctx, d, func(ctx context.Context, c *api.Client) ([]string, error) { return stillUse(ctx, c, name) })
			if err != nil {
				return fmt.Sprintf("%s: %v", d.nobody, err), nil
			}
			if len(left) > 0 {
				return fmt.Sprintf("on node %s it is still that of %s", d.node, strings.Join(left, ", ")), nil
			}
		}
		return "", nil
	})
}

// stillUse are the services and workloads whose connections an agent hands to a waypoint.
func stillUse(ctx context.Context, c *api.Client, name string) ([]string, error) {
	var left []string
	services, err := c.Services(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range services.Services {
		if s.Waypoint == name {
			left = append(left, "service "+s.Name)
		}
	}
	workloads, err := c.Workloads(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range workloads.Workloads {
		if w.Waypoint == name {
			left = append(left, "workload "+w.Name)
		}
	}
	return left, nil
}

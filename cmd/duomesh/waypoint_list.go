package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

// listedWaypoint is one line of waypoint list.
type listedWaypoint struct {
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	State          string   `json:"state"`
	Ready          int      `json:"ready"`
	Pods           int      `json:"pods"`
	Services       []string `json:"services,omitempty"`
	WholeNamespace bool     `json:"wholeNamespace,omitempty"`
	// Others are whatever else uses it: of other kinds, and of other namespaces.
	Others []string `json:"others,omitempty"`
}

func newWaypointListCmd() *cobra.Command {
	var f gatewayFlags
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the waypoints of a Kubernetes cluster, and what uses them", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" && output != "yaml" {
				return usagef("--output %s: must be table, json or yaml", output)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			only := f.namespace
			c, err := f.open(ctx)
			if err != nil {
				return err
			}
			all, err := listWaypoints(ctx, c, only)
			if err != nil {
				return err
			}
			return printWaypoints(cmd.OutOrStdout(), output, all)
		},
	}
	f.define(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func listWaypoints(ctx context.Context, c *cluster.Client, only string) ([]listedWaypoint, error) {
	found, err := c.List(ctx, cluster.Waypoint("", "", ""), only, "")
	if err != nil {
		return nil, err
	}
	users, err := waypointUsers(ctx, c)
	if err != nil {
		return nil, err
	}
	all := []listedWaypoint{}
	for i := range found {
		o := &found[i]
		if classOf(o) != cluster.WaypointClass {
			continue
		}
		w := listedWaypoint{Namespace: o.GetNamespace(), Name: o.GetName(), State: programmed(o)}
		if w.State == "" {
			w.State = "programmed"
		}
		pods, err := waypointPods(ctx, c, w.Namespace, w.Name)
		if err != nil {
			return nil, err
		}
		w.Pods = len(pods)
		for i := range pods {
			if waiting(&pods[i]) == "" {
				w.Ready++
			}
		}
		for _, u := range users[w.Namespace+"/"+w.Name] {
			w.usedBy(u)
		}
		delete(users, w.Namespace+"/"+w.Name)
		all = append(all, w)
	}
	return append(all, missingWaypoints(users, only)...), nil
}

// notThere is the state of a waypoint that is named and has no Gateway: istiod tells nodes
// of services that name it as if they named none.
const notThere = "not there: what names it is served without it"

// missingWaypoints are those that are named by users, of one namespace or of all.
func missingWaypoints(users map[string][]*unstructured.Unstructured, only string) []listedWaypoint {
	var all []listedWaypoint
	for _, full := range slices.Sorted(maps.Keys(users)) {
		namespace, name, _ := strings.Cut(full, "/")
		if name == "none" || only != "" && namespace != only { // none is Istio's word for no waypoint
			continue
		}
		w := listedWaypoint{Namespace: namespace, Name: name, State: notThere}
		for _, u := range users[full] {
			w.usedBy(u)
		}
		all = append(all, w)
	}
	return all
}

func (w *listedWaypoint) usedBy(u *unstructured.Unstructured) {
	switch {
	case u.GetKind() == "Service" && u.GetNamespace() == w.Namespace:
		w.Services = append(w.Services, u.GetName())
	case u.GetKind() == "Namespace" && u.GetName() == w.Namespace:
		w.WholeNamespace = true
	default:
		w.Others = append(w.Others, cluster.Name(u))
	}
}

func printWaypoints(out io.Writer, output string, all []listedWaypoint) error {
	if output != "table" {
		return encode(out, output, all)
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "there is no waypoint")
		return nil
	}
	t := newTable(out, "waypoint", "state", "ready", "used by")
	for _, w := range all {
		users := slices.Concat(w.Services, w.Others)
		if w.WholeNamespace {
			users = append([]string{"namespace " + w.Namespace}, w.Others...)
		}
		t.AppendRow(table.Row{w.Namespace + "/" + w.Name, w.State, fmt.Sprintf("%d/%d", w.Ready, w.Pods), strings.Join(users, ", ")})
	}
	t.Render()
	return nil
}

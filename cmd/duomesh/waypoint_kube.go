package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/duomesh/duomesh/internal/cluster"
)

// What Istio and the Gateway API call a waypoint.
const (
	gatewayGroup = "gateway.networking.k8s.io"
	useWaypoint  = "istio.io/use-waypoint"
	gatewayOfPod = gatewayGroup + "/gateway-name"
)

// gatewayFlags are those of the waypoint commands that speak to a cluster.
type gatewayFlags struct {
	cluster   clusterFlags
	namespace string
	timeout   time.Duration
}

func (f *gatewayFlags) define(cmd *cobra.Command) {
	f.cluster.define(cmd)
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`NAMESPACE` of the waypoint; that of the context when not given")
	set.DurationVar(&f.timeout, "timeout", 2*time.Minute, "`TIME` until it must be done")
}

// open checks that the cluster knows what a waypoint is.
func (f *gatewayFlags) open(ctx context.Context) (*cluster.Client, error) {
	c, err := f.cluster.open(ctx)
	if err != nil {
		return nil, err
	}
	if f.namespace == "" {
		f.namespace = c.Namespace
	}
	known, err := c.Has(gatewayGroup, "Gateway")
	if err == nil && !known {
		err = errors.New("the cluster does not know kind Gateway: install the definitions (CRDs) of the Gateway API")
	}
	return c, err
}

func newWaypointApplyCmd() *cobra.Command {
	var f gatewayFlags
	var traffic string
	var services []string
	var all bool
	cmd := &cobra.Command{
		Use: "apply [NAME]", Short: "Make a waypoint on a Kubernetes cluster, and let services use it", Args: atMostOne,
		Example: "  duomesh waypoint apply -n default --service fortio\n  duomesh waypoint apply -n shop --whole-namespace",
		RunE: func(cmd *cobra.Command, args []string) error {
			if traffic != "service" && traffic != "workload" && traffic != "all" {
				return usagef("--for %s: must be service, workload or all", traffic)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			c, err := f.open(ctx)
			if err != nil {
				return err
			}
			out, name := cmd.OutOrStdout(), waypointNamed(args)
			if err := c.Apply(ctx, cluster.ApplyOptions{}, cluster.Waypoint(f.namespace, name, traffic)); err != nil {
				return err
			}
			if err := awaitWaypoint(ctx, c, f.namespace, name); err != nil {
				return err
			}
			fmt.Fprintf(out, "waypoint %s/%s takes connections\n", f.namespace, name)
			return use(ctx, c, f.namespace, services, all, name, out)
		},
	}
	f.define(cmd)
	cmd.Flags().StringVar(&traffic, "for", "service", "what it is for: `service|workload|all`")
	cmd.Flags().StringArrayVar(&services, "service", nil, "`NAME` of a service that uses it from now on; may be repeated")
	cmd.Flags().BoolVar(&all, "whole-namespace", false, "all services of the namespace use it from now on")
	return cmd
}

func waypointNamed(args []string) string {
	if name := first(args); name != "" {
		return name
	}
	return "waypoint"
}

// use labels what is to go by way of a waypoint; "" takes the label away.
func use(ctx context.Context, c *cluster.Client, namespace string, services []string, all bool, name string, out io.Writer) error {
	var value any = name
	if name == "" {
		value = nil
	}
	options := metav1.PatchOptions{FieldManager: cluster.Manager}
	for _, s := range services {
		_, err := c.CoreV1().Services(namespace).Patch(ctx, s, types.MergePatchType, labelPatch(useWaypoint, value), options)
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no service %s in namespace %s", s, namespace)
		}
		if err != nil {
			return fmt.Errorf("label service %s/%s: %w", namespace, s, err)
		}
		fmt.Fprintf(out, "service %s/%s uses it\n", namespace, s)
	}
	if !all {
		return nil
	}
	if _, err := c.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, labelPatch(useWaypoint, value), options); err != nil {
		return fmt.Errorf("label namespace %s: %w", namespace, err)
	}
	fmt.Fprintf(out, "all services of namespace %s use it\n", namespace)
	return nil
}

// awaitWaypoint returns when istiod has programmed the Gateway and one of its pods is
// ready.
func awaitWaypoint(ctx context.Context, c *cluster.Client, namespace, name string) error {
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		o, err := getGateway(ctx, c, namespace, name)
		if err != nil {
			return "the Gateway cannot be read", err
		}
		if state := programmed(o); state != "" {
			return fmt.Sprintf("waypoint %s/%s: %s (does an istiod with PILOT_ENABLE_AMBIENT=true run?)", namespace, name, state), nil
		}
		pods, err := waypointPods(ctx, c, namespace, name)
		if err != nil {
			return "its pods cannot be read", err
		}
		words := "it has no pod yet"
		for i := range pods {
			if words = waiting(&pods[i]); words == "" {
				return "", nil
			}
		}
		return fmt.Sprintf("waypoint %s/%s: %s", namespace, name, words), nil
	})
}

func getGateway(ctx context.Context, c *cluster.Client, namespace, name string) (*unstructured.Unstructured, error) {
	o := cluster.Waypoint(namespace, name, "")
	r, err := c.Resource(o)
	if err != nil {
		return nil, err
	}
	o, err = r.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no waypoint %s in namespace %s: duomesh waypoint apply makes one", name, namespace)
	}
	return o, err
}

// programmed is why a Gateway is not; "" when it is.
func programmed(o *unstructured.Unstructured) string {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions") // none: nobody has looked at it
	for _, one := range conditions {
		if cond, ok := one.(map[string]any); ok && cond["type"] == "Programmed" {
			if cond["status"] == "True" {
				return ""
			}
			return fmt.Sprintf("not programmed: %v", cond["message"])
		}
	}
	return "not programmed: nobody has answered for its class"
}

func waypointPods(ctx context.Context, c *cluster.Client, namespace, name string) ([]corev1.Pod, error) {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: gatewayOfPod + "=" + name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of waypoint %s/%s: %w", namespace, name, err)
	}
	return list.Items, nil
}

func newWaypointDeleteCmd() *cobra.Command {
	var f gatewayFlags
	cmd := &cobra.Command{
		Use: "delete [NAME]", Short: "Delete a waypoint, after whatever uses it does so no more", Args: atMostOne,
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
			users, whole, err := usersOf(ctx, c, f.namespace, name)
			if err != nil {
				return err
			}
			if err := use(ctx, c, f.namespace, users, whole, "", io.Discard); err != nil {
				return err
			}
			done := func(*unstructured.Unstructured) { fmt.Fprintf(out, "deleted waypoint %s/%s\n", f.namespace, name) }
			return c.Delete(ctx, done, cluster.Waypoint(f.namespace, name, ""))
		},
	}
	f.define(cmd)
	return cmd
}

// usersOf are the services of its namespace that use a waypoint by their own label,
// and whether the namespace does.
func usersOf(ctx context.Context, c *cluster.Client, namespace, name string) (services []string, whole bool, _ error) {
	list, err := c.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{LabelSelector: useWaypoint + "=" + name})
	if err != nil {
		return nil, false, fmt.Errorf("list services of namespace %s: %w", namespace, err)
	}
	for _, s := range list.Items {
		services = append(services, s.Name)
	}
	ns, err := c.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return nil, false, fmt.Errorf("namespace %s: %w", namespace, err)
	}
	return services, ns.Labels[useWaypoint] == name, nil
}

// listedWaypoint is one line of waypoint list.
type listedWaypoint struct {
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	State          string   `json:"state"`
	Ready          int      `json:"ready"`
	Pods           int      `json:"pods"`
	Services       []string `json:"services,omitempty"`
	WholeNamespace bool     `json:"wholeNamespace,omitempty"`
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
	all := []listedWaypoint{}
	for i := range found {
		o := &found[i]
		if class, _, _ := unstructured.NestedString(o.Object, "spec", "gatewayClassName"); class != cluster.WaypointClass {
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
		if w.Services, w.WholeNamespace, err = usersOf(ctx, c, w.Namespace, w.Name); err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

func printWaypoints(out io.Writer, output string, all []listedWaypoint) error {
	switch output {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	case "yaml":
		text, err := yaml.Marshal(all)
		if err == nil {
			_, err = out.Write(text)
		}
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(out, "there is no waypoint")
		return nil
	}
	t := newTable(out, "waypoint", "state", "ready", "used by")
	for _, w := range all {
		users := strings.Join(w.Services, ", ")
		if w.WholeNamespace {
			users = "namespace " + w.Namespace
		}
		t.AppendRow(table.Row{w.Namespace + "/" + w.Name, w.State, fmt.Sprintf("%d/%d", w.Ready, w.Pods), users})
	}
	t.Render()
	return nil
}

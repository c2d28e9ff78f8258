package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/internal/cluster"
)

// What Istio and the Gateway API call a waypoint.
const (
	gatewayGroup = "gateway.networking.k8s.io"
	useWaypoint  = "istio.io/use-waypoint"
	// useWaypointOf is the waypoint's namespace where that is another.
	useWaypointOf = "istio.io/use-waypoint-namespace"
	gatewayOfPod  = gatewayGroup + "/gateway-name"
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
	set.StringVarP(&f.namespace, "namespace", "n", "", "`NAMESPACE` of the waypoint; that of the context when not given, and all for list")
	timeoutFlag(set, &f.timeout, 2*time.Minute, "`TIME` until it must be done")
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
			if err := haveServices(ctx, c, f.namespace, services); err != nil {
				return err
			}
			out, name := cmd.OutOrStdout(), waypointNamed(args)
			if err := applyWaypoint(ctx, c, cluster.Waypoint(f.namespace, name, traffic), answersAsOurs); err != nil {
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

// haveServices fails for a service that is not there, before anything is made.
func haveServices(ctx context.Context, c *cluster.Client, namespace string, services []string) error {
	for _, s := range services {
		if s == "" {
			return usagef("--service: want the NAME of a service")
		}
		_, err := c.CoreV1().Services(namespace).Get(ctx, s, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no service %s in namespace %s: nothing is made", s, namespace)
		}
		if err != nil {
			return fmt.Errorf("look for service %s/%s: %w", namespace, s, err)
		}
	}
	return nil
}

// use labels what is to go by way of a waypoint of its own namespace.
func use(ctx context.Context, c *cluster.Client, namespace string, services []string, all bool, name string, out io.Writer) error {
	options, patch := metav1.PatchOptions{FieldManager: cluster.Manager}, useLabels(name)
	for _, s := range services {
		_, err := c.CoreV1().Services(namespace).Patch(ctx, s, types.MergePatchType, patch, options)
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
	if _, err := c.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, patch, options); err != nil {
		return fmt.Errorf("label namespace %s: %w", namespace, err)
	}
	fmt.Fprintf(out, "all services of namespace %s use it\n", namespace)
	return nil
}

// askReplicaFunc asks the entry process of a waypoint's pod whether it is one of ours.
type askReplicaFunc func(context.Context, *cluster.Client, *corev1.Pod) error

func answersAsOurs(ctx context.Context, c *cluster.Client, p *corev1.Pod) error {
	return askReplica(ctx, p, forwarded(c), new(replica), askStatus)
}

// applyWaypoint returns when istiod has programmed the Gateway and its pods that are
// ready run this project's entry process: whatever is labelled sooner is refused.
func applyWaypoint(ctx context.Context, c *cluster.Client, w *unstructured.Unstructured, ask askReplicaFunc) error {
	namespace, name := w.GetNamespace(), w.GetName()
	if _, err := getGateway(ctx, c, namespace, name); err != nil && !errors.Is(err, errNoWaypoint) {
		return err // one of another class stays what it is
	}
	if err := c.Apply(ctx, cluster.ApplyOptions{}, w); err != nil {
		return err
	}
	strange := false
	err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
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
		var words string
		if words, strange = serves(ctx, c, pods, ask); words != "" {
			words = fmt.Sprintf("waypoint %s/%s: %s", namespace, name, words)
		}
		return words, nil
	})
	if err != nil && strange {
		err = fmt.Errorf("%w; nothing is labelled: %s", err, whyStrange(ctx, c))
	}
	return err
}

// serves is why no connection may be handed to the pods of a waypoint; "" when those that
// are ready take them. strange is set when one is ready and runs something else.
func serves(ctx context.Context, c *cluster.Client, pods []corev1.Pod, ask askReplicaFunc) (words string, strange bool) {
	words = "it has no pod yet"
	some := false
	for i := range pods {
		p := &pods[i]
		if why := waiting(p); why != "" {
			words = why
			continue
		}
		if err := ask(ctx, c, p); err != nil {
			return fmt.Sprintf("pod %s, of image %s, does not answer as duomesh-waypoint: %v", p.Name, proxyImage(p), err), true
		}
		some = true
	}
	if some {
		return "", false
	}
	return words, false
}

// whyStrange says what puts duomesh-waypoint into the waypoints of a cluster.
func whyStrange(ctx context.Context, c *cluster.Client) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askReplicaTime)
	defer cancel()
	list, err := c.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{LabelSelector: defaultsForClass + "=" + cluster.WaypointClass})
	switch {
	case err != nil:
		return fmt.Sprintf("whether a ConfigMap sets the image is not known: %v", err)
	case len(list.Items) == 0:
		return "no ConfigMap has label " + defaultsForClass + "=" + cluster.WaypointClass +
			": duomesh install makes it, --set waypoint.namespace=NAME says where istiod is"
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Namespace+"/"+list.Items[i].Name)
	}
	return "ConfigMap " + strings.Join(names, ", ") + " sets the image where it is in istiod's own namespace, and istiod is one that " +
		"looks for it (" + triedIstio + " was tried); for one waypoint annotation sidecar.istio.io/proxyImage does"
}

// triedIstio is the only line of Istio whose istiod was seen to merge a ConfigMap into
// the waypoints of a class.
const triedIstio = "Istio 1.31"

func proxyImage(p *corev1.Pod) string {
	if len(p.Spec.Containers) == 0 {
		return "none"
	}
	return p.Spec.Containers[0].Image
}

// errNoWaypoint is in the error of getGateway when there is none.
var errNoWaypoint = errors.New("duomesh waypoint apply makes one")

func getGateway(ctx context.Context, c *cluster.Client, namespace, name string) (*unstructured.Unstructured, error) {
	o := cluster.Waypoint(namespace, name, "")
	r, err := c.Resource(o)
	if err != nil {
		return nil, err
	}
	o, err = r.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no waypoint %s in namespace %s: %w", name, namespace, errNoWaypoint)
	}
	if err != nil {
		return nil, fmt.Errorf("look for waypoint %s/%s: %w", namespace, name, err)
	}
	if class := classOf(o); class != cluster.WaypointClass {
		return nil, fmt.Errorf("%s/%s is a Gateway of class %s, and no waypoint (class %s): nothing is changed", namespace, name, class, cluster.WaypointClass)
	}
	return o, nil
}

func classOf(o *unstructured.Unstructured) string {
	class, _, _ := unstructured.NestedString(o.Object, "spec", "gatewayClassName") // the server asks for a text
	return class
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

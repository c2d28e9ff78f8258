package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/deploy"
	"github.com/duomesh/duomesh/internal/cluster"
)

// agentName is that of the DaemonSet in the chart.
const (
	agentName        = "duomesh-agent"
	defaultNamespace = "duomesh-system"
)

// releaseFlags say what is installed, and where.
type releaseFlags struct {
	cluster   clusterFlags
	namespace string
	set       []string
	setString []string
	values    []string
	timeout   time.Duration
}

func (f *releaseFlags) define(cmd *cobra.Command) {
	f.cluster.define(cmd)
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", defaultNamespace, "`NAMESPACE` of the agents")
	set.StringArrayVar(&f.set, "set", nil, "`KEY=VALUE` of the chart, in helm's form; may be repeated")
	set.StringArrayVar(&f.setString, "set-string", nil, "the same, of a value that is a text whatever it looks like; may be repeated")
	set.StringArrayVarP(&f.values, "values", "f", nil, "YAML `FILE` of values of the chart; may be repeated")
	timeoutFlag(set, &f.timeout, 3*time.Minute, "`TIME` to wait for the agents")
}

// objects are those of the chart, without the namespace.
func (f releaseFlags) objects() ([]*unstructured.Unstructured, error) {
	r := deploy.Release{Name: "duomesh", Namespace: f.namespace, Set: f.set, SetString: f.setString}
	for _, file := range f.values {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("--values: %w", err)
		}
		r.Values = append(r.Values, data)
	}
	documents, err := r.Render()
	if err != nil {
		return nil, usageError{err}
	}
	return cluster.Decode([]byte(strings.Join(documents, "\n---\n")))
}

func newInstallCmd() *cobra.Command {
	var f releaseFlags
	var how installHow
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the agents on a Kubernetes cluster, or bring them up to date",
		Long: "Install the agents on a Kubernetes cluster, or bring them up to date, and wait until each node's\n" +
			"is ready (--wait=false waits for nothing). It applies the Helm chart deploy/helm/duomesh on the\n" +
			"server's side; its values are in docs/kubernetes.md.",
		Example: "  duomesh install\n" +
			"  duomesh install --set xdsAddress=istiod-1-22-6.istio-system.svc:15012 --set clusterId=my-cluster\n" +
			"  duomesh install --dry-run=server",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInstall(cmd.Context(), f, how, cmd.OutOrStdout())
		},
	}
	f.define(cmd)
	cmd.Flags().BoolVar(&how.wait, "wait", true, "return when the agent of each node is ready")
	cmd.Flags().StringVar(&how.dryRun, "dry-run", "", "change nothing: `client|server`; client prints the manifests, server lets the API server check them")
	return cmd
}

// applyTime bounds how long an API server may take for all objects.
const applyTime = 3 * time.Minute

// installHow says what of an installation is really done.
type installHow struct {
	dryRun string
	wait   bool
}

func runInstall(ctx context.Context, f releaseFlags, how installHow, out io.Writer) error {
	objects, err := f.objects()
	if err != nil {
		return err
	}
	switch how.dryRun {
	case "", "server":
	case "client":
		return printYAML(out, objects)
	default:
		return usagef("--dry-run %s: must be client or server", how.dryRun)
	}
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	c, err := f.cluster.open(ctx)
	if err != nil {
		return err
	}
	if err := checkNamespaces(ctx, c, objects, f.namespace); err != nil {
		return err
	}
	dry := how.dryRun == "server"
	apply := cluster.ApplyOptions{DryRun: dry, Done: func(o *unstructured.Unstructured) {
		fmt.Fprintf(out, "applied %s%s\n", cluster.Name(o), map[bool]string{true: " (dry run)"}[dry])
	}}
	if err := makeNamespace(ctx, c, f.namespace, apply); err != nil {
		return err
	}
	if err := c.Apply(ctx, apply, objects...); err != nil {
		return err
	}
	if err := f.prune(ctx, c, objects, how, out); err != nil {
		return err
	}
	if apply.DryRun {
		return nil
	}
	if !how.wait {
		fmt.Fprintf(out, "nothing was waited for; when the agents are ready says\n  kubectl rollout status -n %s daemonset/%s\n", f.namespace, agentName)
		return nil
	}
	waiting, stop := context.WithTimeout(whole, f.timeout)
	defer stop()
	if err := awaitAgents(waiting, c, f.namespace); err != nil {
		return err
	}
	fmt.Fprintln(out, "the agents of all nodes are ready; the pods of a namespace are redirected with\n  duomesh enroll namespace NAME")
	return nil
}

// prune deletes what an earlier installation has made and this one has not: with other
// values, the ConfigMap of waypoints is elsewhere, or nowhere.
func (f releaseFlags) prune(ctx context.Context, c *cluster.Client, objects []*unstructured.Unstructured, how installHow, out io.Writer) error {
	all, err := f.installed(ctx, c, objects)
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	for _, o := range objects {
		kept[cluster.Name(o)] = true
	}
	for _, o := range all {
		if kept[cluster.Name(o)] {
			continue
		}
		if how.dryRun != "" {
			fmt.Fprintf(out, "deleted %s (dry run)\n", cluster.Name(o))
			continue
		}
		done := func(o *unstructured.Unstructured) {
			fmt.Fprintf(out, "deleted %s, which these values do not have\n", cluster.Name(o))
		}
		options := cluster.DeleteOptions{Dependents: metav1.DeletePropagationBackground, NoWait: !how.wait, Done: done}
		if err := c.Remove(ctx, options, o); err != nil {
			return err
		}
	}
	return nil
}

// checkNamespaces names what is missing before anything is changed.
func checkNamespaces(ctx context.Context, c *cluster.Client, objects []*unstructured.Unstructured, own string) error {
	for _, o := range objects {
		ns := o.GetNamespace()
		if ns == "" || ns == own {
			continue
		}
		_, err := c.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: namespace %s is not there: install istiod first (with PILOT_ENABLE_AMBIENT=true), "+
				"name its namespace by --set waypoint.namespace=NAME, or leave waypoints out by --set waypoint.enabled=false", cluster.Name(o), ns)
		}
		if err != nil {
			return fmt.Errorf("look for namespace %s: %w", ns, err)
		}
	}
	return nil
}

// managedBy marks a namespace that this command made, and takes away again.
const managedBy = "app.kubernetes.io/managed-by"

// makeNamespace makes the agents' namespace, in which privileged pods may run. One
// that is there stays as it is.
func makeNamespace(ctx context.Context, c *cluster.Client, name string, apply cluster.ApplyOptions) error {
	_, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("look for namespace %s: %w", name, err)
	}
	o := namespaceObject(name)
	if apply.DryRun {
		return fmt.Errorf("namespace %s is not there: the server checks nothing in it; make it first: kubectl create namespace %s", name, name)
	}
	return c.Apply(ctx, apply, o)
}

func namespaceObject(name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	o.SetName(name)
	o.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": "privileged", managedBy: "duomesh"})
	return o
}

// agentPods are those of the DaemonSet.
func agentPods(ctx context.Context, c *cluster.Client, namespace string) ([]corev1.Pod, error) {
	list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentSelector})
	if err != nil {
		return nil, fmt.Errorf("list the agents in namespace %s: %w", namespace, err)
	}
	return list.Items, nil
}

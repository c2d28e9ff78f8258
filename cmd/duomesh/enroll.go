package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/cluster"
)

// The label and the annotation of docs/kubernetes.md.
const (
	modeLabel             = "istio.io/dataplane-mode"
	modeOurs              = "duomesh"
	modeKmesh             = "Kmesh" // the same, in any case
	redirectionAnnotation = "kmesh.net/redirection"
)

type enrollFlags struct {
	cluster   clusterFlags
	namespace string
	wait      bool
	overwrite bool
	timeout   time.Duration
}

func (f *enrollFlags) define(cmd *cobra.Command) {
	f.cluster.define(cmd)
	set := cmd.Flags()
	set.StringVarP(&f.namespace, "namespace", "n", "", "`NAMESPACE` of pods; that of the context when not given")
	set.BoolVar(&f.wait, "wait", true, "return when the agents have confirmed it on the pods that run")
	set.BoolVar(&f.overwrite, "overwrite", false, "also where the label names another dataplane, which then has the pods no more")
	timeoutFlag(set, &f.timeout, time.Minute, "`TIME` until it must be confirmed")
}

func newEnrollCmd() *cobra.Command {
	return enrolment("enroll", "Redirect the connections of pods: of a whole namespace, or one",
		"duomesh enroll namespace default\n  duomesh enroll pod -n shop web-0", true)
}

func newUnenrollCmd() *cobra.Command {
	return enrolment("unenroll", "Redirect them no more", "duomesh unenroll namespace default", false)
}

func enrolment(use, short, example string, in bool) *cobra.Command {
	var f enrollFlags
	cmd := &cobra.Command{
		Use: use + " namespace|pod NAME…", Short: short, Example: "  " + example,
		Long: short + ". It sets or removes label " + modeLabel + ", as kubectl would, and\n" +
			"waits until the kernel of each pod's node has confirmed it. A label that names another\n" +
			"dataplane (ambient) stays, and is an error.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%swant namespace NAME…, or pod NAME…", called(cmd))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return f.run(ctx, args[0], args[1:], in, cmd.OutOrStdout())
		},
	}
	f.define(cmd)
	return cmd
}

func (f enrollFlags) run(ctx context.Context, kind string, names []string, in bool, out io.Writer) error {
	act, ok := map[string]func(context.Context, *cluster.Client, string, bool) (enrolled, error){
		"namespace": f.enrollNamespace, "namespaces": f.enrollNamespace, "ns": f.enrollNamespace,
		"pod": f.enrollPod, "pods": f.enrollPod, "po": f.enrollPod,
	}[kind]
	if !ok {
		return usagef("%s: must be namespace or pod", kind)
	}
	c, err := f.cluster.open(ctx)
	if err != nil {
		return err
	}
	nobody := in && c.NoAgents(ctx)
	for _, name := range names {
		e, err := act(ctx, c, name, in)
		if err != nil {
			return err
		}
		words := map[bool]string{true: "is enrolled", false: "is not enrolled any more"}[in]
		if !f.wait {
			words = map[bool]string{true: "is to be enrolled", false: "is to be enrolled no more"}[in]
		} else if err := e.await(ctx, c, in, nobody); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s\n", e.what, words)
	}
	if nobody {
		fmt.Fprintln(out, "this cluster has no agents yet: duomesh install puts them there")
	}
	return nil
}

// enrolled is what has got its label, and which pods it concerns.
type enrolled struct {
	what, namespace string
	pods            metav1.ListOptions
	// byNamespace pods follow the namespace's label only where they have none.
	byNamespace bool
}

// labelPatch sets a label, or removes it with nil.
func labelPatch(label string, value any) []byte {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{label: value}}})
	if err != nil {
		panic(err) // texts in maps can always be encoded
	}
	return patch
}

func mode(in bool, out any) any {
	if in {
		return modeOurs
	}
	return out
}

// others is another dataplane's label, which is not to be taken away; "" when there is
// none, or it may be. "none" is nobody's.
func (f enrollFlags) others(labels map[string]string) string {
	has := labels[modeLabel]
	if f.overwrite || has == "none" || strings.EqualFold(has, modeOurs) || strings.EqualFold(has, modeKmesh) {
		return ""
	}
	return has
}

func othersLabel(what, has string) error {
	return fmt.Errorf("%s has label %s=%s, which is another dataplane's: nothing is changed; --overwrite takes it away all the same", what, modeLabel, has)
}

func (f enrollFlags) enrollNamespace(ctx context.Context, c *cluster.Client, name string, in bool) (enrolled, error) {
	e := enrolled{what: "namespace " + name, namespace: name, byNamespace: true}
	ns, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if has := f.others(ns.Labels); has != "" {
			return enrolled{}, othersLabel(e.what, has)
		}
		patch := labelPatch(modeLabel, mode(in, nil))
		_, err = c.CoreV1().Namespaces().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cluster.Manager})
	}
	if apierrors.IsNotFound(err) {
		return enrolled{}, fmt.Errorf("there is no namespace %s: kubectl create namespace %s makes it", name, name)
	}
	if err != nil {
		return enrolled{}, fmt.Errorf("label namespace %s: %w", name, err)
	}
	return e, nil
}

// enrollPod labels one pod; to leave is a label, too, since its namespace may be
// enrolled.
func (f enrollFlags) enrollPod(ctx context.Context, c *cluster.Client, name string, in bool) (enrolled, error) {
	namespace := f.namespace
	if namespace == "" {
		namespace = c.Namespace
	}
	p, err := c.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if has := f.others(p.Labels); has != "" {
			return enrolled{}, othersLabel("pod "+namespace+"/"+name, has)
		}
		patch := labelPatch(modeLabel, mode(in, "none"))
		_, err = c.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: cluster.Manager})
	}
	if apierrors.IsNotFound(err) {
		return enrolled{}, fmt.Errorf("there is no pod %s in namespace %s: -n names another", name, namespace)
	}
	if err != nil {
		return enrolled{}, fmt.Errorf("label pod %s/%s: %w", namespace, name, err)
	}
	return enrolled{
		what: "pod " + namespace + "/" + name, namespace: namespace,
		pods: metav1.ListOptions{FieldSelector: "metadata.name=" + name},
	}, nil
}

// await returns when the pods that run carry the agents' confirmation, or have lost
// it, and fails at once where there is nobody who could confirm it. Pods that are never
// managed are passed over.
func (e enrolled) await(ctx context.Context, c *cluster.Client, in, nobody bool) error {
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		list, err := c.CoreV1().Pods(e.namespace).List(ctx, e.pods)
		if err != nil {
			return "", fmt.Errorf("list the pods of %s: %w", e.what, err)
		}
		var left []string
		for i := range list.Items {
			p := &list.Items[i]
			if e.concerns(p) && (p.Annotations[redirectionAnnotation] == "enabled") != in {
				left = append(left, p.Name)
			}
		}
		if len(left) == 0 {
			return "", nil
		}
		if nobody {
			return "", fmt.Errorf("%s has its label, but this cluster has no agents to heed it: duomesh install puts them there", e.what)
		}
		return fmt.Sprintf("%s: not confirmed for pods %s (duomesh status; kubectl describe pod says why in its events)",
			e.what, strings.Join(left, ", ")), nil
	})
}

func (e enrolled) concerns(p *corev1.Pod) bool {
	_, has := p.Labels[modeLabel]
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && !p.Spec.HostNetwork &&
		p.Labels["gateway.istio.io/managed"] == "" && !api.IsIstiod(p.Labels) && p.Annotations["sidecar.istio.io/status"] == "" &&
		(!e.byNamespace || !has)
}

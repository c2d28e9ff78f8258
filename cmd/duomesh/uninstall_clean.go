package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/duomesh/duomesh/internal/cluster"
)

// cleanNamespace is where the pods run that clean a node: it is there on every cluster,
// and lets privileged pods run.
const cleanNamespace = metav1.NamespaceSystem

// cleanNodes cleans nodes of what an agent left there, one after the other. One that
// fails does not keep the others from it.
func cleanNodes(ctx context.Context, f releaseFlags, nodes []string, out io.Writer) error {
	rendered, err := f.objects()
	if err != nil {
		return err
	}
	d, err := agentsOf(rendered)
	if err != nil {
		return err
	}
	c, err := f.cluster.open(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, node := range nodes {
		if err := cleanNode(ctx, c, d, node); err != nil {
			failed = errors.Join(failed, fmt.Errorf("node %s is not cleaned: %w", node, err))
			continue
		}
		fmt.Fprintf(out, "node %s is clean\n", node)
	}
	return failed
}

// agentsOf is the DaemonSet among the chart's objects.
func agentsOf(rendered []*unstructured.Unstructured) (*appsv1.DaemonSet, error) {
	for _, o := range rendered {
		if o.GetKind() == "DaemonSet" {
			d := new(appsv1.DaemonSet)
			return d, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d)
		}
	}
	return nil, errors.New("the chart has no DaemonSet")
}

func cleanNode(ctx context.Context, c *cluster.Client, d *appsv1.DaemonSet, node string) (err error) {
	if err := checkClean(ctx, c, d.Namespace, node); err != nil {
		return err
	}
	pods := c.CoreV1().Pods(cleanNamespace)
	p, err := pods.Create(ctx, cleaner(d, node), metav1.CreateOptions{FieldManager: cluster.Manager})
	if err != nil {
		return fmt.Errorf("make a pod there: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if gone := pods.Delete(ctx, p.Name, metav1.DeleteOptions{}); gone != nil && !apierrors.IsNotFound(gone) {
			err = errors.Join(err, fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, gone))
		}
	}()
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		now, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		switch {
		case err != nil:
			return "its pod cannot be read", err
		case now.Status.Phase == corev1.PodSucceeded:
			return "", nil
		case now.Status.Phase == corev1.PodFailed:
			return "", fmt.Errorf("its pod has failed: %s", waiting(now))
		}
		return strings.TrimSuffix("its pod has not ended: "+waiting(now), ": "), nil
	})
}

// checkClean refuses a node whose agent would do everything again.
func checkClean(ctx context.Context, c *cluster.Client, namespace, node string) error {
	if _, err := c.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil {
		return fmt.Errorf("look for it: %w", err)
	}
	pods, err := agentPods(ctx, c, namespace)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == node && p.DeletionTimestamp == nil }) {
		return errors.New("an agent runs there, which would do all again: duomesh uninstall, or take it from the node by the chart's nodeSelector")
	}
	return nil
}

// cleaner is a pod that takes from a node what an agent of the DaemonSet did there: the
// plugin, then the engine. It has the agent's image and mounts, and needs no chain.
func cleaner(d *appsv1.DaemonSet, node string) *corev1.Pod {
	spec := d.Spec.Template.Spec
	agent := spec.Containers[0]
	mounts := slices.DeleteFunc(slices.Clone(spec.Volumes), func(v corev1.Volume) bool { return v.HostPath == nil })
	container := func(name, act string, flags ...string) corev1.Container {
		of := corev1.Container{
			Name: name, Image: agent.Image, ImagePullPolicy: agent.ImagePullPolicy, SecurityContext: agent.SecurityContext,
			Args: []string{act}, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		}
		for _, arg := range agent.Args {
			if flag, _, _ := strings.Cut(arg, "="); slices.Contains(flags, flag) {
				of.Args = append(of.Args, arg)
			}
		}
		for _, m := range agent.VolumeMounts {
			if slices.ContainsFunc(mounts, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				of.VolumeMounts = append(of.VolumeMounts, m)
			}
		}
		return of
	}
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: "duomesh-clean-", Namespace: cleanNamespace},
		Spec: corev1.PodSpec{
			NodeName: node, HostNetwork: true, RestartPolicy: corev1.RestartPolicyNever,
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, Volumes: mounts,
			Containers: []corev1.Container{container("engine", "--remove", "--bpffs")},
		},
	}
	if plugin := container("cni", "--uninstall-cni", "--cni-net-dir", "--cni-bin-dir"); len(plugin.Args) > 1 {
		p.Spec.InitContainers = []corev1.Container{plugin}
	}
	return p
}

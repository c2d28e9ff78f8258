package kube

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// Admit says whether a pod that is about to start is to be managed. The labels of
// its namespace are asked for, so that one that was set before the pod was made
// counts; when the API server does not answer, what was last heard of them does. A pod of
// which nothing was heard then has to wait: api.ErrNotYet is in the chain.
func (c *Controller) Admit(ctx context.Context, name, uid string) (api.Verdict, error) {
	if !c.await(ctx) {
		return api.Verdict{}, api.NotYet(fmt.Errorf("the API server has not yet named the node's pods: %w", context.Cause(ctx)))
	}
	pod, err := c.pod(ctx, name, uid)
	if err != nil {
		return api.Verdict{}, err
	}
	ns, err := c.cfg.Metadata.Resource(namespaceResource).Get(ctx, pod.Namespace, metav1.GetOptions{})
	if err == nil {
		return c.decide(pod, ns.GetLabels()), nil
	}
	labels, known := c.namespaceLabels(pod.Namespace)
	failed := fmt.Errorf("labels of namespace %s: %w", pod.Namespace, err)
	switch {
	case apierrors.IsNotFound(err):
		return api.Verdict{}, failed
	case !known:
		return api.Verdict{}, api.NotYet(failed)
	}
	c.cfg.Log.Warn("labels of a namespace are those that were last heard of", "namespace", pod.Namespace, "err", err)
	return c.decide(pod, labels), nil
}

// decide is Decide, with the hand-off port of a pod that is a waypoint.
func (c *Controller) decide(pod *corev1.Pod, namespaceLabels map[string]string) api.Verdict {
	v := Decide(pod, namespaceLabels, c.cfg.Namespace)
	if isWaypoint(pod) {
		v.Waypoint = c.cfg.HandOff
	}
	return v
}

// pod is the pod of a UID; an empty UID is any.
func (c *Controller) pod(ctx context.Context, name, uid string) (*corev1.Pod, error) {
	is := func(p *corev1.Pod) bool { return uid == "" || nodeUID(p) == uid || string(p.UID) == uid }
	if o, there, err := c.pods.GetStore().GetByKey(name); err == nil && there && is(o.(*corev1.Pod)) {
		return o.(*corev1.Pod), nil
	}
	namespace, short, _ := strings.Cut(name, "/")
	pod, err := c.cfg.Client.CoreV1().Pods(namespace).Get(ctx, short, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the API server knows no pod %s", name)
	case err != nil:
		return nil, api.NotYet(fmt.Errorf("ask for pod %s: %w", name, err))
	case !is(pod):
		return nil, fmt.Errorf("pod %s has UID %s by now, not %s", name, nodeUID(pod), uid)
	case pod.Spec.NodeName != c.cfg.Node:
		return nil, fmt.Errorf("pod %s is on node %q, not on %s", name, pod.Spec.NodeName, c.cfg.Node)
	}
	return pod, nil
}

// Cgroup returns the directory of a pod's UID.
func (c *Controller) Cgroup(uid string) (string, error) { return c.cfg.Places.Directory(uid) }

func openDirectory(path string) (*os.File, error) { return os.OpenFile(path, unix.O_DIRECTORY, 0) }

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// Unserved says of each pod of the node that is to be in the mesh that it is not, and why:
// the node has no engine, and none will come. A pod that says that it is redirected does
// so no more, unless an earlier engine is pinned yet, which goes on. It is for an agent
// that ends at once; Run need not have been called.
func (c *Controller) Unserved(ctx context.Context, why error, pinned bool) error {
	on := fields.OneTermEqualSelector("spec.nodeName", c.cfg.Node).String()
	pods, err := c.cfg.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: on})
	if err != nil {
		return fmt.Errorf("list the pods of node %s: %w", c.cfg.Node, err)
	}
	labels := map[string]map[string]string{} // nil: not to be had
	var errs []error
	for i := range pods.Items {
		pod := &pods.Items[i]
		if _, asked := labels[pod.Namespace]; !asked {
			labels[pod.Namespace], err = c.labelsOf(ctx, pod.Namespace)
			errs = append(errs, err)
		}
		if of := labels[pod.Namespace]; of != nil {
			errs = append(errs, c.unserved(ctx, pod, c.decide(pod, of), why, pinned))
		}
	}
	return errors.Join(errs...)
}

// labelsOf are those of a namespace; nil without an error is one that is gone.
func (c *Controller) labelsOf(ctx context.Context, namespace string) (map[string]string, error) {
	ns, err := c.cfg.Metadata.Resource(namespaceResource).Get(ctx, namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("labels of namespace %s: %w", namespace, err)
	}
	labels := map[string]string{}
	maps.Copy(labels, ns.GetLabels())
	return labels, nil
}

func (c *Controller) unserved(ctx context.Context, pod *corev1.Pod, v api.Verdict, why error, pinned bool) error {
	marked := pod.Annotations[RedirectionAnnotation] != ""
	if !v.Managed && v.Waypoint == 0 || marked && pinned {
		return nil
	}
	var unmarked error
	if marked {
		unmarked = c.annotate(ctx, pod, "")
	}
	return errors.Join(unmarked, c.count(ctx, pod, unservedMessage(c.cfg.Node, v, why, pinned)))
}

// unservedMessage says of a pod what is lost. What an engine that is pinned yet does for one
// that has no annotation, as a waypoint has none, is not known.
func unservedMessage(node string, v api.Verdict, why error, pinned bool) string {
	lost := "no connection of this pod is redirected"
	if v.Waypoint != 0 {
		lost = "no connection is handed over to this waypoint"
	}
	if pinned {
		return fmt.Sprintf("%s, unless the engine of an earlier agent does it yet: node %s can have no new one: %v", lost, node, why)
	}
	return fmt.Sprintf("%s: node %s has no engine: %v", lost, node, why)
}

// count writes an event about a pod: one for all the agents that start and end, each of which
// counts it once. It is written at once and not by the recorder, whose events may not be out
// when the agent is.
func (c *Controller) count(ctx context.Context, pod *corev1.Pod, message string) error {
	events, now := c.cfg.Client.CoreV1().Events(pod.Namespace), metav1.Now()
	name := "not-enrolled." + string(pod.UID)
	by := metav1.PatchOptions{FieldManager: "duomesh-agent"}
	// The agent may not read events. A patch of nothing says what there is.
	was, err := events.Patch(ctx, name, types.MergePatchType, []byte("{}"), by)
	switch {
	case apierrors.IsNotFound(err):
		_, err = events.Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: pod.Namespace},
			InvolvedObject: corev1.ObjectReference{
				APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			},
			Reason: "NotEnrolled", Message: message,
			Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: "duomesh-agent", Host: c.cfg.Node},
			FirstTimestamp: now, LastTimestamp: now, Count: 1,
		}, metav1.CreateOptions{FieldManager: by.FieldManager})
	case err == nil:
		var again []byte
		if again, err = json.Marshal(map[string]any{"count": was.Count + 1, "lastTimestamp": now, "message": message}); err == nil {
			_, err = events.Patch(ctx, name, types.MergePatchType, again, by)
		}
	}
	if err == nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the pod goes with its namespace
	}
	return fmt.Errorf("write an event about pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

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
	labels := map[string]map[string]string{}
	var errs []error
	for i := range pods.Items {
		pod := &pods.Items[i]
		if _, known := labels[pod.Namespace]; !known {
			ns, err := c.cfg.Metadata.Resource(namespaceResource).Get(ctx, pod.Namespace, metav1.GetOptions{})
			if err != nil {
				return errors.Join(append(errs, fmt.Errorf("labels of namespace %s: %w", pod.Namespace, err))...)
			}
			labels[pod.Namespace] = ns.GetLabels()
		}
		errs = append(errs, c.unserved(ctx, pod, c.decide(pod, labels[pod.Namespace]), why, pinned))
	}
	return errors.Join(errs...)
}

func (c *Controller) unserved(ctx context.Context, pod *corev1.Pod, v api.Verdict, why error, pinned bool) error {
	marked := pod.Annotations[RedirectionAnnotation] != ""
	if !v.Managed && v.Waypoint == 0 || marked && pinned {
		return nil
	}
	lost := "no connection of this pod is redirected"
	if v.Waypoint != 0 {
		lost = "no connection is handed over to this waypoint"
	}
	var unmarked error
	if marked {
		unmarked = c.annotate(ctx, pod, "")
	}
	// Written at once and not by the recorder, whose events may not be out when the agent is.
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Reason: "NotEnrolled", Message: fmt.Sprintf("%s: node %s has no engine: %v", lost, c.cfg.Node, why),
		Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: "duomesh-agent", Host: c.cfg.Node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	_, err := c.cfg.Client.CoreV1().Events(pod.Namespace).Create(ctx, event, metav1.CreateOptions{FieldManager: "duomesh-agent"})
	if err != nil {
		err = fmt.Errorf("write an event about pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return errors.Join(unmarked, err)
}

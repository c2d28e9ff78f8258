package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/duomesh/duomesh/internal/cluster"
)

// awaitAgents returns when the DaemonSet is as asked on every node; the error says of
// each node that is not what keeps its agent.
func awaitAgents(ctx context.Context, c *cluster.Client, namespace string) error {
	return cluster.Await(ctx, func(ctx context.Context) (string, error) {
		d, err := c.AppsV1().DaemonSets(namespace).Get(ctx, agentName, metav1.GetOptions{})
		if err != nil {
			return "the DaemonSet cannot be read", err
		}
		s := d.Status
		if s.ObservedGeneration >= d.Generation && s.DesiredNumberScheduled > 0 &&
			s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled {
			return "", nil
		}
		words := fmt.Sprintf("%d of %d agents are ready", s.NumberReady, s.DesiredNumberScheduled)
		lines, err := whyNotReady(ctx, c, d)
		return words + strings.Join(lines, "") + heldUp(d), err
	})
}

// heldUp says what keeps nodes whose agents are ready from the new ones; "" when nothing
// does.
func heldUp(d *appsv1.DaemonSet) string {
	left := d.Status.DesiredNumberScheduled - d.Status.UpdatedNumberScheduled
	rolling := d.Spec.UpdateStrategy.RollingUpdate
	if left <= 0 || rolling == nil || rolling.MaxUnavailable == nil {
		return ""
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, int(d.Status.DesiredNumberScheduled), true)
	if err != nil || int(d.Status.NumberUnavailable) < most {
		return ""
	}
	return fmt.Sprintf("\n  %d more wait for these, and go on as they are: --set maxUnavailable=%d does not let them wait, "+
		"value nodeSelector leaves nodes out", left, d.Status.NumberUnavailable+1)
}

// whyNotReady has a line of each agent that is not ready: its state, what it said last,
// and the last warning about it; and one of the DaemonSet, which may make no pods.
func whyNotReady(ctx context.Context, c *cluster.Client, d *appsv1.DaemonSet) ([]string, error) {
	pods, err := agentPods(ctx, c, d.Namespace)
	if err != nil {
		return nil, err
	}
	list, err := c.CoreV1().Events(d.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning})
	if err != nil {
		return nil, fmt.Errorf("list the events in namespace %s: %w", d.Namespace, err)
	}
	var lines []string
	if warning := lastWarning(list.Items, "DaemonSet", d.Name); warning != "" && len(pods) < int(max(1, d.Status.DesiredNumberScheduled)) {
		lines = append(lines, "\n  DaemonSet: "+warning)
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	for i := range pods {
		p := &pods[i]
		why := waiting(p)
		if why == "" {
			continue
		}
		line := fmt.Sprintf("\n  node %s: %s", cmp.Or(p.Spec.NodeName, "not chosen"), why)
		if said := lastWords(p); said != "" && !strings.Contains(why, said) {
			line += "\n    it ended, and said last: " + strings.ReplaceAll(said, "\n", "\n      ")
		}
		if warning := lastWarning(list.Items, "Pod", p.Name); warning != "" && !strings.Contains(why, warning) {
			line += "\n    " + warning
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// lastWords are what a container of a pod that has ended said at its end.
func lastWords(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if t != nil {
				return cmp.Or(reason(t.Message), fmt.Sprintf("nothing (%s, code %d)", t.Reason, t.ExitCode))
			}
		}
	}
	return ""
}

// reason is what an agent has said of its own end, without the end of its log that
// Kubernetes shows before it.
func reason(message string) string {
	const own = agentName + ": "
	if i := strings.LastIndex("\n"+message, "\n"+own); i >= 0 {
		message = message[i:]
	}
	return strings.TrimSpace(message)
}

// down is why no agent answers in a pod whose container does not run; "" where it does.
func down(p *corev1.Pod) string {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Running != nil {
			return ""
		}
	}
	why := waiting(p)
	if said := lastWords(p); why != "" && said != "" && !strings.Contains(why, said) {
		why += "; it ended, and said last: " + said
	}
	return why
}

// lastWarning is the newest event about an object.
func lastWarning(all []corev1.Event, kind, name string) string {
	var last *corev1.Event
	for i := range all {
		e := &all[i]
		if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && (last == nil || !eventTime(e).Before(eventTime(last))) {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	return last.Reason + ": " + strings.TrimSpace(last.Message)
}

// eventTime is when an event was seen last, whichever way it was told.
func eventTime(e *corev1.Event) time.Time {
	last := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	return last
}

// waiting is why a pod is not ready; "" when it is.
func waiting(p *corev1.Pod) string {
	for _, s := range p.Status.InitContainerStatuses {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			return strings.TrimSpace(s.State.Waiting.Reason + " " + s.State.Waiting.Message)
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			return ended(s.State.Terminated)
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Waiting != nil:
			return strings.TrimSpace(s.State.Waiting.Reason + " " + s.State.Waiting.Message)
		case s.State.Terminated != nil:
			return ended(s.State.Terminated)
		case !s.Ready:
			return "it runs and is not ready (kubectl logs --namespace " + p.Namespace + " " + p.Name + ")"
		}
	}
	for _, cond := range p.Status.Conditions {
		if cond.Status != corev1.ConditionTrue && cond.Type == corev1.PodScheduled {
			return cond.Message
		}
	}
	return ""
}

func ended(t *corev1.ContainerStateTerminated) string {
	return fmt.Sprintf("it has ended with code %d: %s", t.ExitCode, cmp.Or(reason(t.Message), t.Reason))
}

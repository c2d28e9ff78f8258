package kind

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// readinessGate is the condition by which this world says that a pod is ready: kubelet
// waits for it.
const readinessGate = "duomesh.io/scenario"

// sayReady sets the condition of a pod.
func (c *Cluster) sayReady(ctx context.Context, p *pod, is bool) error {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":%q,"status":%q}]}}`, readinessGate, status)
	_, err := c.client.CoreV1().Pods(c.namespace).Patch(ctx, p.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("say of pod %s whether it is ready: %w", p.spec.Name, err)
	}
	return nil
}

// makeReady gives the pods that o names, or does not name, as unready this state, and
// returns when kubelet has said so.
func (c *Cluster) makeReady(ctx context.Context, o scenario.Objects, is bool) error {
	var changed []*pod
	for name, p := range c.pods {
		if p.spec.Waypoint || p.unready != is || slices.Contains(o.Unready, name) == is {
			continue
		}
		if err := c.sayReady(ctx, p, is); err != nil {
			return err
		}
		p.unready = !is
		changed = append(changed, p)
	}
	for _, p := range changed {
		err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
			o, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, p.name, metav1.GetOptions{})
			if err == nil && ready(o) != is {
				return fmt.Sprintf("kubelet has not said yet of pod %s whether it is ready", p.spec.Name), nil
			}
			return "", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func ready(o *corev1.Pod) bool {
	for _, cond := range o.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// sure is the verdict on a pod that the agent has and that is not to be managed by what was
// last heard of its namespace. The plugin enrols by the labels that stand; so it takes those
// to end that, or a watch that is behind would take the pod out of the mesh again.
func (c *Controller) sure(ctx context.Context, key string, pod *corev1.Pod, v api.Verdict) (api.Verdict, error) {
	_, own := pod.Labels[ModeLabel]
	if v.Managed || v.Waypoint != 0 || own || excluded(pod, c.cfg.Namespace) != "" || !c.mayHave(key, pod) {
		return v, nil
	}
	if p, err := c.listed(ctx, key); err != nil || p == nil {
		return v, err
	}
	ns, err := c.cfg.Metadata.Resource(namespaceResource).Get(ctx, pod.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return v, nil
	case err != nil:
		return v, fmt.Errorf("labels of namespace %s: %w", pod.Namespace, err)
	}
	return c.decide(pod, ns.GetLabels()), nil
}

// mayHave reports whether the agent may have a pod: this controller has brought it, it is
// marked, or an earlier agent or the plugin may have enrolled it, which is asked once.
func (c *Controller) mayHave(key string, pod *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, had := c.known[key]
	_, seen := c.told[key]
	return had || !seen || pod.Annotations[RedirectionAnnotation] != ""
}

// leave ends the management of a pod that is not to be managed any more. One that
// never was costs nothing.
func (c *Controller) leave(ctx context.Context, key string, pod *corev1.Pod, reason string) error {
	c.mu.Lock()
	_, seen := c.told[key]
	c.mu.Unlock()
	marked := pod.Annotations[RedirectionAnnotation] != ""
	if !seen && !marked && askedFor(pod) {
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotEnrolled", "label %s is without effect: %s", ModeLabel, reason)
	}
	if c.mayHave(key, pod) {
		if err := c.end(ctx, key, nodeUID(pod)); err != nil {
			return err
		}
	}
	if !marked {
		return nil
	}
	if err := c.annotate(ctx, pod, ""); err != nil {
		return err
	}
	c.events.Eventf(pod, corev1.EventTypeNormal, "Left", "connections of this pod are redirected no more: %s", reason)
	return nil
}

// end asks the agent to end the management of a pod that it has.
func (c *Controller) end(ctx context.Context, key, uid string) error {
	p, err := c.listed(ctx, key)
	if err != nil {
		return err
	}
	if p != nil {
		if err := c.takeOut(ctx, p, uid); err != nil {
			return err
		}
	}
	c.mu.Lock()
	delete(c.known, key)
	c.mu.Unlock()
	return nil
}

// takeOut ends the management of a pod by its name, or, where the agent does not hold its
// namespace, by that: it is looked for.
func (c *Controller) takeOut(ctx context.Context, p *api.Pod, uid string) error {
	if p.Held {
		return api.Leave(ctx, c.cfg.Socket, p.Name, nil)
	}
	found, err := c.cfg.Places.Find(Want{UID: uid, Users: true})
	if err == nil {
		defer found.Netns.Close()
	}
	return api.Leave(ctx, c.cfg.Socket, p.Name, found.Netns)
}

// gone forgets a pod that is not in the API any more. The agent sees its end by
// its cgroup, except where the pods have none of their own.
func (c *Controller) gone(ctx context.Context, key string) error {
	c.mu.Lock()
	was, had := c.known[key]
	delete(c.told, key)
	delete(c.plain, key)
	c.mu.Unlock()
	if !had {
		return nil
	}
	return c.end(ctx, key, was.uid)
}

// Unmark takes the annotation off the pods of the node: what redirects them goes with the
// agent. Run must have returned.
func (c *Controller) Unmark(ctx context.Context) error {
	var errs []error
	for _, o := range c.pods.GetStore().List() {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Annotations[RedirectionAnnotation] == "" {
			continue
		}
		if err := c.annotate(ctx, pod, ""); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("pods say yet that they are redirected: %w", errors.Join(errs...))
		}
	}
	return errors.Join(errs...)
}

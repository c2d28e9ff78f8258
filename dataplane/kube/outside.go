package kube

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outside is how many pods of the node were not in the mesh from their start, and should
// have been, since this controller's.
func (c *Controller) Outside() uint64 { return c.outside.Load() }

// warnOutside says of a pod that is enrolled only now that it has been outside the mesh:
// it started after the mesh was installed, was to be managed as far as is known, and did
// not come by the plugin. A chain that its owner has written anew, a node whose agent was
// not there yet, or policy pass let it.
func (c *Controller) warnOutside(ctx context.Context, key string, pod *corev1.Pod, started time.Time) error {
	c.mu.Lock()
	later := c.plain[key] == nodeUID(pod) // it got its label while it ran
	c.mu.Unlock()
	if !c.cfg.Chained || later || !c.installedBefore(started) {
		return nil
	}
	p, err := c.listed(ctx, key)
	if err != nil || p == nil || p.Sandbox != "" {
		return err
	}
	c.outside.Add(1)
	c.cfg.Log.Warn("a pod was outside the mesh when it started: it did not come by the CNI plugin", "pod", key, "started", started)
	c.events.Event(pod, corev1.EventTypeWarning, "OutsideAtStart",
		"this pod was outside the mesh when it started, for it did not come by the CNI plugin: what it has connected before it was enrolled is not redirected")
	return nil
}

// installedBefore reports whether the agent's DaemonSet is older than a moment.
func (c *Controller) installedBefore(t time.Time) bool {
	if c.daemonset == nil {
		return false
	}
	o, there, err := c.daemonset.GetStore().GetByKey(c.cfg.Namespace + "/" + c.cfg.DaemonSet)
	if err != nil || !there {
		return false
	}
	m, ok := o.(metav1.Object)
	return ok && t.After(m.GetCreationTimestamp().Time)
}

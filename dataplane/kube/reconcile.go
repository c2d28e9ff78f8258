package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// reconcile brings one pod to what its labels say. An error means: again.
func (c *Controller) reconcile(ctx context.Context, key string) error {
	o, there, err := c.pods.GetStore().GetByKey(key)
	if err != nil {
		return err
	}
	if !there {
		return c.gone(ctx, key)
	}
	pod := o.(*corev1.Pod)
	labels, known := c.namespaceLabels(pod.Namespace)
	if !known {
		return fmt.Errorf("namespace %s is not known yet", pod.Namespace)
	}
	verdict, err := c.sure(ctx, key, pod, c.decide(pod, labels))
	if err != nil {
		c.cfg.Log.Warn("a pod stays as it is until it is known whether it is to be managed", "pod", key, "err", err)
		return err
	}
	switch {
	case verdict.Managed:
		err = c.enrol(ctx, key, pod)
	case verdict.Waypoint != 0:
		err = c.serve(ctx, key, pod, verdict)
	default:
		c.mu.Lock()
		c.plain[key] = nodeUID(pod)
		c.mu.Unlock()
		err = c.leave(ctx, key, pod, verdict.Reason)
	}
	switch {
	case ctx.Err() != nil: // the agent ends
	case errors.Is(err, errNotYet):
		c.tell(key, verdict, err)
	case err != nil:
		c.tell(key, verdict, err)
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotEnrolled", "%v", err)
	default:
		c.tell(key, verdict, nil)
	}
	return err
}

// tell logs a verdict once.
func (c *Controller) tell(key string, v api.Verdict, err error) {
	words := fmt.Sprint(v, err)
	c.mu.Lock()
	again := c.told[key] == words
	c.told[key] = words
	c.mu.Unlock()
	switch {
	case again:
	case errors.Is(err, errNotYet):
		c.cfg.Log.Debug("a pod waits", "pod", key, "err", err)
	case err != nil:
		c.cfg.Log.Warn("a pod was not enrolled", "pod", key, "why", v.Reason, "err", err)
	case v.Managed:
		c.cfg.Log.Info("a pod is enrolled", "pod", key, "why", v.Reason)
	case v.Waypoint != 0:
		c.cfg.Log.Info("a waypoint takes connections over", "pod", key, "port", v.Waypoint)
	default:
		c.cfg.Log.Debug("a pod is not managed", "pod", key, "why", v.Reason)
	}
}

func (c *Controller) namespaceLabels(name string) (map[string]string, bool) {
	o, there, err := c.namespaces.GetStore().GetByKey(name)
	if err != nil || !there {
		return nil, false
	}
	m, ok := o.(*metav1.PartialObjectMetadata)
	return m.GetLabels(), ok
}

// errNotYet is a pod that has no process to find it by: it is being started.
var errNotYet = errors.New("the pod has not started yet")

// enrol puts a pod under management unless it is, and writes that on it.
func (c *Controller) enrol(ctx context.Context, key string, pod *corev1.Pod) error {
	has, err := c.has(ctx, key, pod)
	if err != nil {
		return err
	}
	marked := pod.Annotations[RedirectionAnnotation] == RedirectionEnabled
	if marked && !has.there {
		// An engine before this one had it: what the pod says is not so until it is confirmed.
		if err := c.annotate(ctx, pod, ""); err != nil {
			return err
		}
		marked = false
	}
	at, err := c.place(ctx, key, pod, has, api.Verdict{Managed: true})
	if err != nil || !at.runs {
		return err
	}
	if at.fresh {
		if err := c.warnOutside(ctx, key, pod, at.started); err != nil {
			c.cfg.Log.Error("nobody knows whether a pod was in the mesh from its start", "pod", key, "err", err)
		}
	}
	if marked {
		return nil
	}
	if err := c.annotate(ctx, pod, RedirectionEnabled); err != nil {
		return err
	}
	c.events.Event(pod, corev1.EventTypeNormal, "Enrolled", "connections of this pod are redirected, the kernel has confirmed it")
	return nil
}

// serve has a waypoint's pod served.
func (c *Controller) serve(ctx context.Context, key string, pod *corev1.Pod, v api.Verdict) error {
	has, err := c.has(ctx, key, pod)
	if err == nil {
		_, err = c.place(ctx, key, pod, has, v)
	}
	return err
}

// place finds a pod on the node and tells the agent of it, unless it has it: a pod
// to be managed, or a waypoint.
func (c *Controller) place(ctx context.Context, key string, pod *corev1.Pod, has had, v api.Verdict) (placed, error) {
	found, err := c.find(pod, has.inode)
	if errors.Is(err, errNoProcess) || errors.Is(err, fs.ErrNotExist) {
		switch {
		case pod.DeletionTimestamp != nil:
			return placed{}, nil // it is ending, and the agent sees that by itself
		case pod.Status.Phase != corev1.PodRunning:
			return placed{}, fmt.Errorf("%w: %w", errNotYet, err)
		}
	}
	if err != nil {
		return placed{}, err
	}
	defer found.Netns.Close()
	is := enrolled{nodeUID(pod), found.Inode}
	if has.confirmed && has.enrolled == is {
		return placed{runs: true}, nil
	}
	if err := c.ask(ctx, key, is.uid, found, v); err != nil {
		return placed{}, err
	}
	c.mu.Lock()
	c.known[key] = is
	c.mu.Unlock()
	return placed{true, !has.there || has.inode != 0 && has.inode != is.inode, found.Started}, nil
}

// placed is what became of a pod that the agent was told of.
type placed struct {
	runs bool
	// fresh is set when the agent had nothing of the pod, or of another sandbox of it.
	fresh bool
	// started is when the first of its processes was.
	started time.Time
}

// had is what the agent has of a pod already. The inode is 0 where it does not hold the
// namespace: another may have that number by now.
type had struct {
	enrolled
	// there is set when it has anything, confirmed when this controller has seen to it.
	there, confirmed bool
}

// has is what the agent has of a pod, by what is remembered here or by its own word.
func (c *Controller) has(ctx context.Context, key string, pod *corev1.Pod) (had, error) {
	uid := nodeUID(pod)
	c.mu.Lock()
	is, known := c.known[key]
	c.mu.Unlock()
	if known && is.uid == uid {
		return had{is, true, true}, nil
	}
	p, err := c.listed(ctx, key)
	switch {
	case err != nil || p == nil || p.UID != "" && p.UID != uid: // "": an agent of an earlier version found it
		return had{}, err
	case p.UID == "" || !p.Held:
		return had{there: true}, nil
	}
	return had{enrolled: enrolled{uid, p.Netns}, there: true}, nil
}

// listed is what the agent says of a pod; nil when it has none of the name.
func (c *Controller) listed(ctx context.Context, key string) (*api.Pod, error) {
	pods, err := api.List(ctx, c.cfg.Socket)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Name == key {
			return &p, nil
		}
	}
	return nil, nil
}

// find looks for a pod on the node; first in the namespace that the agent has for it.
func (c *Controller) find(pod *corev1.Pod, inode uint64) (Found, error) {
	return c.cfg.Places.Find(Want{
		UID: nodeUID(pod), Netns: inode, Users: pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers,
	})
}

func (c *Controller) ask(ctx context.Context, key, uid string, f Found, v api.Verdict) error {
	cgroup, err := openDirectory(f.Cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	return api.Take(ctx, c.cfg.Socket, api.Found{Pod: key, UID: uid, Netns: f.Netns, Cgroup: cgroup, Waypoint: v.Waypoint})
}

// annotate writes or removes the annotation, of the pod of this UID and no later
// one of the same name. By way of pods/status: that changes no pod's spec.
func (c *Controller) annotate(ctx context.Context, pod *corev1.Pod, value string) error {
	annotations := map[string]any{RedirectionAnnotation: nil}
	if value != "" {
		annotations[RedirectionAnnotation] = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = c.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: "duomesh-agent"}, "status")
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err), apierrors.IsInvalid(err):
		return c.replaced(ctx, pod, err)
	}
	return fmt.Errorf("write annotation %s on pod %s/%s: %w", RedirectionAnnotation, pod.Namespace, pod.Name, err)
}

// replaced returns nil when a patch was refused because the pod is another one by
// now, which is reconciled in its turn.
func (c *Controller) replaced(ctx context.Context, pod *corev1.Pod, refused error) error {
	now, err := c.cfg.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID {
		return nil
	}
	return errors.Join(fmt.Errorf("write annotation %s on pod %s/%s: %w", RedirectionAnnotation, pod.Namespace, pod.Name, refused), err)
}

package kube

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// compare asks the agent now and then whether it has what it was given, and nothing else:
// somebody may have come through the same door, and pods end while nobody watches.
func (c *Controller) compare(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Compare)
	defer tick.Stop()
	for {
		pods, err := api.List(ctx, c.cfg.Socket)
		switch {
		case err == nil:
			c.compareWith(ctx, pods)
		case ctx.Err() == nil:
			c.cfg.Log.Error("the agent does not say which pods it has", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *Controller) compareWith(ctx context.Context, pods []api.Pod) {
	has := map[string]bool{}
	for _, p := range pods {
		has[p.Name] = true
		if p.UID == "" { // whoever enrolled it takes it out
			continue
		}
		if c.names(p) {
			c.again(p.Name, false)
		} else if err := c.endStray(ctx, p); err != nil {
			c.cfg.Log.Error("nobody says whether a pod is still there", "pod", p.Name, "err", err)
		}
	}
	c.mu.Lock()
	known := make([]string, 0, len(c.known))
	for key := range c.known {
		known = append(known, key)
	}
	c.mu.Unlock()
	for _, key := range known {
		if !has[key] {
			c.again(key, true)
		}
	}
}

// again has a pod looked at that is remembered and should not be, or the other way round.
func (c *Controller) again(key string, remembered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, is := c.known[key]; is != remembered {
		return
	}
	delete(c.known, key)
	delete(c.told, key)
	c.queue.Add(key)
}

// names reports whether the API, as far as was heard, has a pod that the agent has.
func (c *Controller) names(p api.Pod) bool {
	o, there, err := c.pods.GetStore().GetByKey(p.Name)
	return err == nil && there && isPod(o.(*corev1.Pod), p.UID)
}

func isPod(pod *corev1.Pod, uid string) bool { return nodeUID(pod) == uid || string(pod.UID) == uid }

// endStray has the agent forget a pod that is gone from the API: it ended while no agent
// ran, and nothing on the node shows that. One that starts may not have been heard of yet,
// so the API server is asked.
func (c *Controller) endStray(ctx context.Context, p api.Pod) error {
	namespace, name, _ := strings.Cut(p.Name, "/")
	pod, err := c.cfg.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && isPod(pod, p.UID):
		return nil
	case err != nil && !apierrors.IsNotFound(err):
		return err
	}
	c.cfg.Log.Info("a pod is gone from the API", "pod", p.Name, "uid", p.UID)
	return api.Release(ctx, c.cfg.Socket, api.Sandbox{Pod: p.Name, UID: p.UID, ID: p.Sandbox})
}

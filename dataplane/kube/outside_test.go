package kube

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// TestOutsideAtStart: a pod that should have come by the plugin and did not is named. One
// that ran before the mesh was installed, got its label later, or did come is not.
func TestOutsideAtStart(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	c.namespace("plain", "")
	before := c.pod("shop", "before", nil)
	c.live(before)
	ran := time.Now().Unix()
	c.eventually("its second is over: the API counts in whole ones", func() bool { return time.Now().Unix() > ran })
	set := c.agentSet()
	r := c.start(c.server.Config)
	c.eventually("one that ran before is enrolled", func() bool { return c.annotation(before) == RedirectionEnabled })
	c.eventually("another second", func() bool { return r.daemonset.HasSynced() && time.Since(set.CreationTimestamp.Time) > time.Second })

	came := c.pod("shop", "came", nil)
	ns := newNetns(t)
	_, err := api.Admit(t.Context(), c.socket, api.Sandbox{Pod: "shop/came", UID: string(came.UID), ID: "s1", Netns: ns})
	must(t, err)
	c.node.pod(string(came.UID), ns)
	c.running(came)
	later := c.pod("plain", "later", nil)
	c.live(later)
	c.eventually("one without a label is seen", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.plain["plain/later"] == string(later.UID)
	})
	c.label("plain", `"duomesh"`)
	for _, pod := range []*corev1.Pod{came, later} {
		c.eventually(pod.Name+" is enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	}
	if n := r.Outside(); n != 0 {
		t.Errorf("%d pods were outside at their start, and none was", n)
	}

	slipped := c.pod("shop", "slipped", nil)
	c.live(slipped)
	c.eventually("an event names it", func() bool { return c.event(slipped, "OutsideAtStart", "outside the mesh when it started") })
	c.eventually("it is enrolled all the same", func() bool { return c.annotation(slipped) == RedirectionEnabled })
	if n := r.Outside(); n != 1 {
		t.Errorf("%d pods were outside at their start, and one was", n)
	}
	for _, pod := range []*corev1.Pod{before, came, later} {
		if c.event(pod, "OutsideAtStart", "") {
			t.Errorf("%s is said to have been outside", pod.Name)
		}
	}
	r.stop()
	r = c.start(c.server.Config)
	next := c.pod("shop", "next", nil)
	c.live(next)
	c.eventually("the next is enrolled, last of all", func() bool { return c.annotation(next) == RedirectionEnabled })
	if n := r.Outside(); n != 1 {
		t.Errorf("%d pods were outside by the next agent, and only one that started under it was", n)
	}
}

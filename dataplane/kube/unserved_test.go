package kube

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/duomesh/duomesh/internal/kubetest"
)

// On a node that has no engine the pods that should be in the mesh are told so, and no
// other; what is pinned yet is left to go on.
func TestUnserved(t *testing.T) {
	c := &cluster{t: t, server: kubetest.Start(t), node: newScratch(t)}
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	c.namespace("plain", "")
	marked := func(p *corev1.Pod) { p.Annotations = map[string]string{RedirectionAnnotation: RedirectionEnabled} }
	was, is := c.pod("shop", "was", marked), c.pod("shop", "is", nil)
	waypoint := c.pod("plain", "waypoint", func(p *corev1.Pod) { p.Labels = map[string]string{gatewayLabel: waypointManager} })
	others := []*corev1.Pod{
		c.pod("shop", "out", func(p *corev1.Pod) { p.Labels = map[string]string{ModeLabel: modeNone} }),
		c.pod("plain", "plain", nil),
		c.pod("shop", "elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "node-b" }),
	}
	c.bind(shipped(t))
	config := c.server.As(account, "system:serviceaccounts")
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	meta, err := metadata.NewForConfig(config)
	must(t, err)
	controller, err := New(Config{
		Client: client, Metadata: meta, Node: nodeName, Namespace: "duomesh-system",
		Places: c.node.places(), HandOff: 15029, Socket: "nobody",
	})
	must(t, err)
	why := errors.New("Linux 4.19 cannot carry the engine")

	must(t, controller.Unserved(t.Context(), why, true))
	if c.annotation(was) != RedirectionEnabled || c.event(was, "NotEnrolled", "") {
		t.Error("a pod that a pinned engine redirects yet was told otherwise")
	}
	must(t, controller.Unserved(t.Context(), why, false))
	for _, p := range []*corev1.Pod{was, is} {
		if !c.event(p, "NotEnrolled", "no connection of this pod is redirected: node node-a has no engine: Linux 4.19 cannot carry the engine") {
			t.Errorf("pod %s was not told", p.Name)
		}
		if got := c.annotation(p); got != "" {
			t.Errorf("pod %s says that redirection is %s", p.Name, got)
		}
	}
	if !c.event(waypoint, "NotEnrolled", "no connection is handed over to this waypoint: ") {
		t.Error("the waypoint's pod was not told")
	}
	for _, p := range others {
		if c.event(p, "NotEnrolled", "") {
			t.Errorf("pod %s is not to be managed, and was told that it is not", p.Name)
		}
	}
}

package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	mode := func(m string) map[string]string { return map[string]string{ModeLabel: m} }
	for name, c := range map[string]struct {
		change    func(*corev1.Pod)
		namespace map[string]string
		managed   bool
		reason    string
	}{
		"nothing asks":            {nil, nil, false, "neither the pod nor namespace shop has label"},
		"the namespace":           {nil, mode("Kmesh"), true, "namespace shop has label istio.io/dataplane-mode=Kmesh"},
		"in any case":             {nil, mode("kmesh"), true, "dataplane-mode=kmesh"},
		"by our name":             {nil, mode("duomesh"), true, "dataplane-mode=duomesh"},
		"another dataplane":       {nil, mode("ambient"), false, "which is another dataplane"},
		"the pod":                 {func(p *corev1.Pod) { p.Labels = mode("duomesh") }, nil, true, "the pod has label"},
		"the pod opts out":        {func(p *corev1.Pod) { p.Labels = mode("none") }, mode("Kmesh"), false, "the pod has label istio.io/dataplane-mode=none"},
		"the pod wants another":   {func(p *corev1.Pod) { p.Labels = mode("ambient") }, mode("Kmesh"), false, "another dataplane"},
		"the pod wants it anyway": {func(p *corev1.Pod) { p.Labels = mode("Kmesh") }, mode("none"), true, "the pod has label"},
		"host network":            {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, mode("Kmesh"), false, "on the host's network"},
		"a waypoint": {func(p *corev1.Pod) {
			p.Labels = map[string]string{gatewayLabel: "istio.io-mesh-controller", ModeLabel: "Kmesh"}
		}, mode("Kmesh"), false, "gateway or waypoint"},
		"a sidecar": {func(p *corev1.Pod) {
			p.Annotations = map[string]string{sidecarAnnotation: "{}"}
		}, mode("Kmesh"), false, "sidecar"},
		"a native sidecar": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: sidecarContainer}}
		}, mode("Kmesh"), false, "sidecar"},
		"an istiod": {func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "istiod", "istio": "pilot", ModeLabel: "Kmesh"}
		}, mode("Kmesh"), false, "it is an istiod"},
		"an istiod of a revision": {func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "istiod", "istio.io/rev": "1-22-6"}
		}, mode("Kmesh"), false, "it is an istiod"},
		"an app of its name": {func(p *corev1.Pod) { p.Labels = map[string]string{"app": "istiod"} }, mode("Kmesh"), true, "namespace shop has label"},
		"our own":            {func(p *corev1.Pod) { p.Namespace = "duomesh-system" }, mode("Kmesh"), false, "agent's own namespace"},
		"it has ended":       {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, mode("Kmesh"), false, "it has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}}
			if c.change != nil {
				c.change(pod)
			}
			v := Decide(pod, c.namespace, "duomesh-system")
			if v.Managed != c.managed || !strings.Contains(v.Reason, c.reason) {
				t.Errorf("got %+v, want %v, %q", v, c.managed, c.reason)
			}
		})
	}
}

func TestWaypointIsServed(t *testing.T) {
	c := &Controller{cfg: Config{HandOff: 15029, Namespace: "duomesh-system"}}
	for name, x := range map[string]struct {
		change func(*corev1.Pod)
		port   uint16
	}{
		"istiod's":        {func(p *corev1.Pod) { p.Labels = map[string]string{gatewayLabel: waypointManager} }, 15029},
		"another gateway": {func(p *corev1.Pod) { p.Labels = map[string]string{gatewayLabel: "istio.io-gateway-controller"} }, 0},
		"any pod":         {func(*corev1.Pod) {}, 0},
		"on the host's network": {func(p *corev1.Pod) {
			p.Labels, p.Spec.HostNetwork = map[string]string{gatewayLabel: waypointManager}, true
		}, 0},
		"it has ended": {func(p *corev1.Pod) {
			p.Labels, p.Status.Phase = map[string]string{gatewayLabel: waypointManager}, corev1.PodFailed
		}, 0},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "way-0"}}
		x.change(pod)
		if v := c.decide(pod, map[string]string{ModeLabel: "Kmesh"}); v.Waypoint != x.port || (v.Managed && x.port != 0) {
			t.Errorf("%s: %+v, want port %d", name, v, x.port)
		}
	}
}

func TestNodeUID(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Annotations: map[string]string{hashAnnotation: "h"}}}
	if got := nodeUID(pod); got != "u" {
		t.Errorf("an ordinary pod: %s", got)
	}
	pod.Annotations[mirrorAnnotation] = "h"
	if got := nodeUID(pod); got != "h" {
		t.Errorf("a static pod: %s", got)
	}
}

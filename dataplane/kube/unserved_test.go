package kube

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/duomesh/duomesh/internal/kubetest"
)

// On a node that has no engine the pods that should be in the mesh are told so, and no
// other; what is pinned yet is left to go on.
func TestUnserved(t *testing.T) {
	t.Parallel()
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
	controller := c.unservedController(c.server.As(account, "system:serviceaccounts"))
	why := errors.New("Linux 4.19 cannot carry the engine")

	must(t, controller.Unserved(t.Context(), why, true))
	if c.annotation(was) != RedirectionEnabled || c.event(was, "NotEnrolled", "") {
		t.Error("a pod that a pinned engine redirects yet was told otherwise")
	}
	if !c.event(is, "NotEnrolled", "no connection of this pod is redirected, unless the engine of an earlier agent does it yet: node node-a can have no new one: ") ||
		!c.event(waypoint, "NotEnrolled", "no connection is handed over to this waypoint, unless the engine of an earlier agent does it yet: ") {
		t.Error("pods that a pinned engine may or may not know were told otherwise")
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
	for p, want := range map[*corev1.Pod][]int32{was: {1}, is: {2}, waypoint: {2}} {
		if got := c.counts(p, "NotEnrolled"); !slices.Equal(got, want) {
			t.Errorf("events of pod %s were counted %v times, want one event, %v", p.Name, got, want)
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

// A namespace that cannot be read is named, one that has gone is not, and the pods of the
// others are told all the same.
func TestUnservedBesideABrokenNamespace(t *testing.T) {
	t.Parallel()
	c := &cluster{t: t, server: kubetest.Start(t), node: newScratch(t)}
	for _, name := range []string{"a-broken", "b-gone", "shop"} {
		c.namespace(name, "Kmesh")
	}
	unread, gone, is := c.pod("a-broken", "pod", nil), c.pod("b-gone", "pod", nil), c.pod("shop", "is", nil)
	c.pod("a-broken", "second", nil)
	config := rest.CopyConfig(c.server.Config)
	config.Wrap(func(real http.RoundTripper) http.RoundTripper {
		return answers{real, map[string]int{"/namespaces/a-broken": http.StatusInternalServerError, "/namespaces/b-gone": http.StatusNotFound}}
	})
	err := c.unservedController(config).Unserved(t.Context(), errors.New("Linux 4.19 cannot carry the engine"), false)
	if err == nil || strings.Count(err.Error(), "labels of namespace a-broken: ") != 1 || strings.Contains(err.Error(), "b-gone") {
		t.Errorf("it says %v", err)
	}
	if !c.event(is, "NotEnrolled", "") || c.event(unread, "NotEnrolled", "") || c.event(gone, "NotEnrolled", "") {
		t.Error("the pod of the namespace that can be read was not told, or another was")
	}
}

// answers are given instead of the server's, by the end of what is asked for.
type answers struct {
	http.RoundTripper
	codes map[string]int
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	for end, code := range a.codes {
		if strings.HasSuffix(r.URL.Path, end) {
			return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
	}
	return a.RoundTripper.RoundTrip(r)
}

func (c *cluster) unservedController(config *rest.Config) *Controller {
	c.t.Helper()
	client, err := kubernetes.NewForConfig(config)
	must(c.t, err)
	meta, err := metadata.NewForConfig(config)
	must(c.t, err)
	controller, err := New(Config{
		Client: client, Metadata: meta, Node: nodeName, Namespace: "duomesh-system",
		Places: c.node.places(), HandOff: 15029, Socket: "nobody",
	})
	must(c.t, err)
	return controller
}

// counts are how often each event about a pod was counted.
func (c *cluster) counts(pod *corev1.Pod, reason string) (all []int32) {
	c.t.Helper()
	list, err := c.server.Client.CoreV1().Events(pod.Namespace).List(c.t.Context(), metav1.ListOptions{})
	must(c.t, err)
	for i := range list.Items {
		if e := &list.Items[i]; e.InvolvedObject.UID == pod.UID && e.Reason == reason {
			all = append(all, e.Count)
		}
	}
	return all
}

package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

func TestRunningPodsAreEnrolled(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	c.namespace("plain", "")
	c.namespace("duomesh-system", "Kmesh")
	before := c.pod("shop", "before", nil)
	c.live(before)
	other := c.pod("plain", "other", nil)
	c.live(other)
	c.live(c.pod("duomesh-system", "own", nil))
	elsewhere := c.pod("shop", "elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "node-b" })
	c.live(elsewhere) // by the API it is another node's
	host := c.pod("shop", "host", func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Labels = map[string]string{ModeLabel: "duomesh"}
	})
	c.running(host)
	c.start(c.server.Config)

	c.eventually("a pod that ran before is enrolled", func() bool { return c.annotation(before) == RedirectionEnabled })
	if got := c.has(); got != "shop/before" {
		t.Errorf("enrolled are %q", got)
	}
	c.eventually("an event says why a pod that asked is not", func() bool {
		return c.event(host, "NotEnrolled", "it is on the host's network")
	})
	c.eventually("an event says that it is", func() bool { return c.event(before, "Enrolled", "the kernel has confirmed") })

	// A pod that starts later, first without a process.
	after := c.pod("shop", "after", nil)
	c.live(after)
	c.eventually("a pod that started later is enrolled", func() bool { return c.annotation(after) == RedirectionEnabled })

	// Labels come and go.
	c.label("plain", `"duomesh"`)
	c.eventually("a namespace joins", func() bool { return c.annotation(other) == RedirectionEnabled })
	c.labelPod("before", `"none"`)
	c.eventually("a pod opts out", func() bool { return c.annotation(before) == "" && c.has() == "plain/other shop/after" })
	c.eventually("an event says that it has left", func() bool { return c.event(before, "Left", "istio.io/dataplane-mode=none") })
	c.labelPod("before", "null")
	c.eventually("a pod is back", func() bool { return c.annotation(before) == RedirectionEnabled })
	c.label("shop", "null")
	c.eventually("a namespace leaves", func() bool {
		return c.annotation(before) == "" && c.annotation(after) == "" && c.has() == "plain/other"
	})
}

func TestPodThatHasNoProcess(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	pod := c.pod("shop", "web-0", nil)
	c.running(pod) // and none on the node
	r := c.start(c.server.Config)
	c.eventually("an event names the reason", func() bool { return c.event(pod, "NotEnrolled", "no process of it") })
	c.eventually("the log does", func() bool { return r.log.has("a pod was not enrolled", "shop/web-0", "no process of it") })
	if got := c.annotation(pod); got != "" {
		t.Errorf("the annotation is %q, and nothing was confirmed", got)
	}
	c.node.pod(string(pod.UID), newNetns(t))
	c.eventually("it is enrolled without another word from the API", func() bool { return c.annotation(pod) == RedirectionEnabled })
}

// TestSameNameAnotherPod: a StatefulSet's pod is deleted and made anew.
func TestSameNameAnotherPod(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	c.start(c.server.Config)
	pod := c.pod("shop", "web-0", nil)
	p := c.live(pod)
	c.eventually("the first is enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	first := inodeOf(c)
	p.end()
	c.delete(pod)
	again := c.pod("shop", "web-0", nil)
	if got := c.annotation(again); got != "" {
		t.Errorf("the new pod is born with annotation %q", got)
	}
	c.live(again)
	c.eventually("the second is", func() bool { return c.annotation(again) == RedirectionEnabled })
	if now := inodeOf(c); now == first || now == 0 {
		t.Errorf("namespace %d, was %d", now, first)
	}
}

// TestEndingPod: its processes end before it leaves the API; nobody is told that
// it could not be enrolled.
func TestEndingPod(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	r := c.start(c.server.Config)
	pod := c.pod("shop", "web-0", nil)
	p := c.live(pod)
	c.eventually("it is enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	must(t, c.server.Client.CoreV1().Pods("shop").Delete(t.Context(), "web-0", metav1.DeleteOptions{}))
	p.end()
	c.labelPod("web-0", `"Kmesh"`) // a change that is looked at
	c.eventually("the change is seen", func() bool {
		o, there, err := r.pods.GetStore().GetByKey("shop/web-0")
		return err == nil && there && o.(*corev1.Pod).Labels[ModeLabel] != ""
	})
	// Another that comes later is served: the queue is first in, first out.
	next := c.pod("shop", "web-1", nil)
	c.live(next)
	c.eventually("the next is enrolled", func() bool { return c.annotation(next) == RedirectionEnabled })
	if r.log.has("a pod was not enrolled") || c.event(pod, "NotEnrolled", "") {
		t.Error("the end of a pod is called a failure")
	}
}

// inodeOf is the namespace that the agent has for shop/web-0, 0 without one.
func inodeOf(c *cluster) uint64 {
	pods, err := api.List(c.t.Context(), c.socket)
	must(c.t, err)
	for _, p := range pods {
		if p.Name == "shop/web-0" {
			return p.Netns
		}
	}
	return 0
}

// TestAgentAnew: what changed while no agent ran is found, and somebody who takes
// a pod out behind the API's back does not get far.
func TestAgentAnew(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	stays, leaves := c.pod("shop", "stays", nil), c.pod("shop", "leaves", nil)
	c.live(stays)
	c.live(leaves)
	r := c.start(c.server.Config)
	c.eventually("both are enrolled", func() bool {
		return c.annotation(stays) == RedirectionEnabled && c.annotation(leaves) == RedirectionEnabled
	})
	r.stop()
	c.labelPod("leaves", `"none"`)
	c.start(c.server.Config)
	c.eventually("the one has left", func() bool { return c.annotation(leaves) == "" && c.has() == "shop/stays" })

	must(t, api.Leave(t.Context(), c.socket, "shop/stays", nil))
	c.eventually("it is enrolled again", func() bool { return c.has() == "shop/stays" })
}

// TestEngineAnew: the machine was started anew, the engine knows no pod. What pods say of an
// engine before is taken back until it is so again.
func TestEngineAnew(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	runs, starts := c.pod("shop", "runs", nil), c.pod("shop", "starts", nil)
	c.live(runs)
	p := c.live(starts)
	r := c.start(c.server.Config)
	c.eventually("both are enrolled", func() bool {
		return c.annotation(runs) == RedirectionEnabled && c.annotation(starts) == RedirectionEnabled
	})
	r.stop()
	must(t, os.Remove(c.socket+".json"))
	p.end()
	watched, err := c.server.Client.CoreV1().Pods("shop").Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=runs"})
	must(t, err)
	defer watched.Stop()
	c.start(c.server.Config)
	c.eventually("one that is not enrolled does not say so", func() bool { return c.annotation(starts) == "" })
	var said []string
	for e := range watched.ResultChan() {
		now := e.Object.(*corev1.Pod).Annotations[RedirectionAnnotation]
		if len(said) == 0 || said[len(said)-1] != now {
			said = append(said, now)
		}
		if len(said) > 1 && now == RedirectionEnabled {
			break
		}
	}
	if !slices.Contains(said, "") {
		t.Errorf("one that runs said %q", said)
	}
	c.node.pod(string(starts.UID), newNetns(t))
	c.eventually("it says so when it is", func() bool { return c.annotation(starts) == RedirectionEnabled })
}

func TestAdmission(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	r := c.start(c.server.Config)
	pod := c.pod("shop", "web-0", nil)
	ns := newNetns(t)
	sandbox := api.Sandbox{Pod: "shop/web-0", UID: string(pod.UID), ID: "s1", Netns: ns}
	ctx := t.Context()

	v, err := api.Admit(ctx, c.socket, sandbox)
	must(t, err)
	if !v.Managed || c.has() != "shop/web-0" {
		t.Errorf("verdict %+v, enrolled are %q", v, c.has())
	}
	if got := c.annotation(pod); got != "" {
		t.Errorf("annotation %q before anything runs", got)
	}
	_, err = api.Confirm(ctx, c.socket, sandbox)
	must(t, err)
	// kubelet starts it: the informer confirms the same namespace.
	c.node.pod(string(pod.UID), ns)
	c.running(pod)
	c.eventually("the annotation follows", func() bool { return c.annotation(pod) == RedirectionEnabled })

	// The label counts that was set before the pod was made.
	c.label("shop", "null")
	second := c.pod("shop", "web-1", nil)
	v, err = api.Admit(ctx, c.socket, api.Sandbox{Pod: "shop/web-1", UID: string(second.UID), ID: "s2", Netns: newNetns(t)})
	must(t, err)
	if v.Managed {
		t.Errorf("verdict %+v after the label was removed", v)
	}
	for name, want := range map[string]struct{ pod, uid, words string }{
		"unheard":      {"shop/nobody", "u", "the API server knows no pod shop/nobody"},
		"another pod":  {"shop/web-0", uidA, "has UID " + string(pod.UID) + " by now"},
		"another node": {"shop/far", "", `is on node "node-b", not on node-a`},
	} {
		if name == "another node" {
			c.pod("shop", "far", func(p *corev1.Pod) { p.Spec.NodeName = "node-b" })
		}
		_, err := r.Admit(ctx, want.pod, want.uid)
		if err == nil || !strings.Contains(err.Error(), want.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	early, cancel := context.WithCancel(ctx)
	cancel()
	unsynced, err := New(r.cfg)
	must(t, err)
	if _, err := unsynced.Admit(early, "shop/web-0", ""); !errors.Is(err, api.ErrNotYet) || !strings.Contains(err.Error(), "has not yet named") {
		t.Errorf("before the first list: %v", err)
	}
	if _, err := r.Admit(ctx, "shop/nobody", "u"); errors.Is(err, api.ErrNotYet) {
		t.Errorf("a pod that there is not is to be asked for again: %v", err)
	}
}

// TestAdmissionWithoutAnAPIServer: a pod that nobody has heard of is not refused but has to
// wait, which is what the plugin's policy is about.
func TestAdmissionWithoutAnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.namespace("shop", "Kmesh")
	var cut atomic.Bool
	config := rest.CopyConfig(c.server.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return transport(func(q *http.Request) (*http.Response, error) {
			if cut.Load() && strings.Contains(q.URL.Path, "/shop") {
				return nil, io.ErrUnexpectedEOF
			}
			return next.RoundTrip(q)
		})
	})
	r := c.start(config)
	known := c.pod("shop", "known", nil)
	c.eventually("synced", func() bool {
		_, there, err := r.pods.GetStore().GetByKey("shop/known")
		return r.Synced() && err == nil && there
	})
	cut.Store(true)
	sandbox := api.Sandbox{Pod: "shop/unheard", UID: uidA, ID: "s1", Netns: newNetns(t)}
	if _, err := api.Admit(t.Context(), c.socket, sandbox); !errors.Is(err, api.ErrNotYet) {
		t.Errorf("a pod that was not heard of: %v", err)
	}
	sandbox.Pod, sandbox.UID = "shop/known", string(known.UID)
	v, err := api.Admit(t.Context(), c.socket, sandbox)
	must(t, err)
	if !v.Managed {
		t.Errorf("by what was last heard: %+v", v)
	}
}

// TestRemoved: the agent's own DaemonSet goes: it is uninstalled and not replaced.
func TestRemoved(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	r := c.start(c.server.Config)
	c.eventually("all is known", r.daemonset.HasSynced)
	if r.Removed() {
		t.Error("removed, and was never there")
	}
	c.agentSet()
	c.eventually("it is seen", r.had.Load)
	if r.Removed() {
		t.Error("removed, and is there")
	}
	must(t, c.server.Client.AppsV1().DaemonSets("duomesh-system").Delete(t.Context(), "duomesh-agent", metav1.DeleteOptions{}))
	c.eventually("its end is seen", r.Removed)
}

// TestNamespaceGoes: since Kubernetes 1.33 the pods of a namespace that is deleted end first;
// the agent's DaemonSet stands then, and nothing is said of its end.
func TestNamespaceGoes(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	r := c.start(c.server.Config)
	c.agentSet()
	c.eventually("both are seen", func() bool { return r.had.Load() && r.housed.Load() })
	if r.Removed() {
		t.Error("removed, and all is there")
	}
	must(t, c.server.Client.CoreV1().Namespaces().Delete(t.Context(), "duomesh-system", metav1.DeleteOptions{}))
	c.eventually("the end of its namespace is seen", r.Removed)
	if _, there, err := r.daemonset.GetStore().GetByKey("duomesh-system/duomesh-agent"); err != nil || !there {
		t.Errorf("the DaemonSet is gone as well (%v): nothing was tried", err)
	}
}

// agentSet makes the agent's own DaemonSet.
func (c *cluster) agentSet() *appsv1.DaemonSet {
	c.t.Helper()
	app := map[string]string{"app": "duomesh-agent"}
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "duomesh-agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}},
		},
	}}
	set, err := c.server.Client.AppsV1().DaemonSets("duomesh-system").Create(c.t.Context(), set, metav1.CreateOptions{})
	must(c.t, err)
	return set
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "no client of the API server") {
		t.Errorf("an empty configuration: %v", err)
	}
	if _, err := (Places{Cgroup: filepath.Join(t.TempDir(), "gone"), Proc: "/proc"}).Find(Want{UID: uidA}); err == nil {
		t.Error("a pod was found in no cgroup")
	}
}

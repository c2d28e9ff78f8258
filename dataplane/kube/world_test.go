package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/kubetest"
)

// cluster is a real API server, a real agent on a scratch node, and a test that
// plays kubelet.
type cluster struct {
	t      *testing.T
	server *kubetest.Server
	node   *scratch
	socket string
	bpffs  string // "": the engine ends with the agent
}

const nodeName = "node-a"

// newCluster is startCluster for a test that runs beside others of its kind: most of it
// is waiting.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	return startCluster(t)
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	return &cluster{t: t, server: kubetest.Start(t), node: newScratch(t), socket: filepath.Join(t.TempDir(), "run/enrol.sock")}
}

// running is an agent with its controller.
type running struct {
	*Controller
	t    *testing.T
	ctx  context.Context
	log  lines
	stop func()
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	data bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.Write(p)
}

func (l *lines) has(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range strings.Split(l.data.String(), "\n") {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.String()
}

// start runs an agent with the rights of config; stop ends it as SIGTERM does.
func (c *cluster) start(config *rest.Config) *running {
	c.t.Helper()
	r := &running{t: c.t}
	client, err := kubernetes.NewForConfig(config)
	must(c.t, err)
	meta, err := metadata.NewForConfig(config)
	must(c.t, err)
	log := slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.Controller, err = New(Config{
		Client: client, Metadata: meta, Node: nodeName, Namespace: "duomesh-system", DaemonSet: "duomesh-agent", Chained: true,
		Places: c.node.places(), HandOff: 15029, Socket: c.socket, Compare: 50 * time.Millisecond, Log: log,
	})
	must(c.t, err)
	dir, err := os.Open(c.node.root)
	must(c.t, err)
	a, err := agent.Open(agent.Config{
		Host:   dataplane.Host{Cgroup: dir, BPFFS: c.bpffs, Place: intent.Place{Node: nodeName}},
		Source: "test", EnrolSocket: c.socket, State: c.socket + ".json", Admission: r, Watch: 20 * time.Millisecond, Log: log,
	})
	must(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r.ctx = ctx
	ended := make(chan error, 2)
	updates := make(chan agent.Update, 1)
	updates <- agent.Update{Version: "empty"}
	go func() { ended <- a.Run(ctx, updates) }()
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		must(c.t, errors.Join(<-ended, <-ended, a.Close(), dir.Close()))
	})
	c.t.Cleanup(func() {
		r.stop()
		if c.t.Failed() {
			c.t.Logf("the agent said:\n%s", &r.log)
		}
	})
	return r
}

func (c *cluster) namespace(name, mode string) {
	c.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if mode != "" {
		ns.Labels = map[string]string{ModeLabel: mode}
	}
	_, err := c.server.Client.CoreV1().Namespaces().Create(c.t.Context(), ns, metav1.CreateOptions{})
	must(c.t, err)
}

func (c *cluster) label(namespace, mode string) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, ModeLabel, mode)
	_, err := c.server.Client.CoreV1().Namespaces().Patch(c.t.Context(), namespace, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	must(c.t, err)
}

// labelPod labels a pod of namespace shop.
func (c *cluster) labelPod(name, mode string) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, ModeLabel, mode)
	_, err := c.server.Client.CoreV1().Pods("shop").Patch(c.t.Context(), name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	must(c.t, err)
}

// pod makes a pod of the node in the API alone.
func (c *cluster) pod(namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if change != nil {
		change(pod)
	}
	made, err := c.server.Client.CoreV1().Pods(namespace).Create(c.t.Context(), pod, metav1.CreateOptions{})
	must(c.t, err)
	return made
}

// live gives a pod its process, as kubelet does, and says so.
func (c *cluster) live(pod *corev1.Pod) *process {
	c.t.Helper()
	p := c.node.pod(string(pod.UID), newNetns(c.t))
	c.running(pod)
	return p
}

// running is what kubelet says of a pod.
func (c *cluster) running(pod *corev1.Pod) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"status":{"phase":%q}}`, corev1.PodRunning)
	_, err := c.server.Client.CoreV1().Pods(pod.Namespace).Patch(c.t.Context(), pod.Name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}, "status")
	must(c.t, err)
}

// delete removes a pod from the API at once, as kubelet does when it has ended.
func (c *cluster) delete(pod *corev1.Pod) {
	c.t.Helper()
	now := int64(0)
	must(c.t, c.server.Client.CoreV1().Pods(pod.Namespace).Delete(c.t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

func (c *cluster) annotation(pod *corev1.Pod) string {
	c.t.Helper()
	now, err := c.server.Client.CoreV1().Pods(pod.Namespace).Get(c.t.Context(), pod.Name, metav1.GetOptions{})
	must(c.t, err)
	return now.Annotations[RedirectionAnnotation]
}

// has says what the agent has, by name.
func (c *cluster) has() string {
	c.t.Helper()
	pods, err := api.List(c.t.Context(), c.socket)
	must(c.t, err)
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func (c *cluster) eventually(what string, is func() bool) {
	c.t.Helper()
	eventually(c.t, what, is)
}

// event reports whether an event of a reason has been written about a pod.
func (c *cluster) event(pod *corev1.Pod, reason, words string) bool {
	c.t.Helper()
	list, err := c.server.Client.CoreV1().Events(pod.Namespace).List(c.t.Context(), metav1.ListOptions{})
	must(c.t, err)
	return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
		return e.InvolvedObject.UID == pod.UID && e.Reason == reason && strings.Contains(e.Message, words)
	})
}

package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/kubetest"
)

// makeNode makes a node that is ready or down.
func (k kubeCLI) makeNode(name string, ready corev1.ConditionStatus) {
	k.t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": "linux"}}}
	n, err := k.Client.CoreV1().Nodes().Create(k.t.Context(), n, metav1.CreateOptions{})
	if err == nil {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		_, err = k.Client.CoreV1().Nodes().UpdateStatus(k.t.Context(), n, metav1.UpdateOptions{})
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// makePod makes a pod on a node, in a state.
func (k kubeCLI) makePod(namespace, name, node string, labels map[string]string, state corev1.ContainerStatus) *corev1.Pod {
	k.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "one", Image: "image"}}},
	}
	p, err := k.Client.CoreV1().Pods(namespace).Create(k.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	k.setState(p, state)
	return p
}

func (k kubeCLI) setState(p *corev1.Pod, state corev1.ContainerStatus) {
	k.t.Helper()
	state.Name = "one"
	p.Status.Phase, p.Status.ContainerStatuses = corev1.PodRunning, []corev1.ContainerStatus{state}
	if _, err := k.Client.CoreV1().Pods(p.Namespace).UpdateStatus(k.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

var (
	runs      = corev1.ContainerStatus{Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	crashes   = corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}
	hasFailed = corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "the plugin is busy"}}}
)

// playCluster is kubelet, the garbage collector and the controller of namespaces, as far
// as an uninstallation needs them: agents end when their DaemonSet is being deleted, but
// on nodes that are down. How they end is said by node.
func (k kubeCLI) playCluster(namespace string, down []string, ends map[string]corev1.ContainerStatus) {
	k.play(func(ctx context.Context) { k.endAgents(ctx, namespace, down, ends) })
}

// play does something again and again until the test ends.
func (k kubeCLI) play(act func(context.Context)) {
	ctx, cancel := context.WithCancel(k.t.Context())
	played := make(chan struct{})
	k.t.Cleanup(func() { cancel(); <-played })
	go func() {
		defer close(played)
		wait.UntilWithContext(ctx, act, 50*time.Millisecond)
	}()
}

func (k kubeCLI) endAgents(ctx context.Context, namespace string, down []string, ends map[string]corev1.ContainerStatus) {
	c := k.Client
	d, err := c.AppsV1().DaemonSets(namespace).Get(ctx, agentName, metav1.GetOptions{})
	if err != nil || d.DeletionTimestamp == nil {
		k.finish(ctx, namespace)
		return
	}
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.AgentSelector})
	if err != nil {
		return
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if slices.Contains(down, p.Spec.NodeName) {
			continue
		}
		if end, ok := ends[p.Spec.NodeName]; ok {
			end.Name = "one"
			p.Status.ContainerStatuses = []corev1.ContainerStatus{end}
			_, _ = c.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{}) // or the next time
		}
		_ = c.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}) // or the next time
	}
	if len(pods.Items) == 0 {
		d.Finalizers = nil
		_, _ = c.AppsV1().DaemonSets(namespace).Update(ctx, d, metav1.UpdateOptions{}) // or the next time
	}
	k.finish(ctx, namespace)
}

// finish lets a namespace go in which no pod is.
func (k kubeCLI) finish(ctx context.Context, namespace string) {
	ns, err := k.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil || ns.DeletionTimestamp == nil {
		return
	}
	pods, err := k.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) > 0 {
		return
	}
	ns.Spec.Finalizers = nil
	if _, err = k.Client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}); err == nil {
		ns, err = k.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	}
	if err == nil && len(ns.Finalizers) > 0 { // "foregroundDeletion"
		ns.Finalizers = nil
		_, _ = k.Client.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{}) // or the next time
	}
}

// installed puts the objects of the chart there, as duomesh install does.
func (k kubeCLI) installed(args ...string) {
	k.t.Helper()
	k.want(0, "nothing was waited for", append([]string{"install", "--wait=false"}, args...)...)
}

var agentLabels = map[string]string{"app.kubernetes.io/name": agentName}

// wantGone holds that nothing of the chart is there outside the agents' namespace.
func (k kubeCLI) wantGone() {
	k.t.Helper()
	ctx, c := k.t.Context(), k.Client
	_, role := c.RbacV1().ClusterRoles().Get(ctx, agentName, metav1.GetOptions{})
	_, binding := c.RbacV1().ClusterRoleBindings().Get(ctx, agentName, metav1.GetOptions{})
	for what, err := range map[string]error{"ClusterRole": role, "ClusterRoleBinding": binding} {
		if !apierrors.IsNotFound(err) {
			k.t.Errorf("%s is still there (%v)", what, err)
		}
	}
	list, err := c.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{LabelSelector: defaultsForClass})
	if err != nil || len(list.Items) > 0 {
		k.t.Errorf("istiod still puts an image into waypoints: %v, %v", list.Items, err)
	}
}

func TestUninstall(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("istio-system")
	k.want(0, "there is nothing to uninstall", "uninstall")
	k.installed()
	k.want(2, "no agents are in namespace elsewhere: they are in duomesh-system", "uninstall", "--namespace", "elsewhere")
	k.makeNode("a", corev1.ConditionTrue)
	k.makePod(defaultNamespace, "agent-a", "a", agentLabels, runs)
	k.playCluster(defaultNamespace, nil, nil)
	k.want(0, "deleted Namespace duomesh-system", "uninstall", "--timeout=30s")
	k.wantGone()
	if _, err := k.Client.CoreV1().Namespaces().Get(t.Context(), defaultNamespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("its namespace is still there: %v", err)
	}
	k.want(0, "there is nothing to uninstall", "uninstall")
}

// What an uninstallation cannot have cleaned it names, and goes on with the rest.
func TestUninstallNamesNodes(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("istio-system")
	k.installed()
	for node, ready := range map[string]corev1.ConditionStatus{
		"fine": corev1.ConditionTrue, "crashing": corev1.ConditionTrue, "failing": corev1.ConditionTrue,
		"down": corev1.ConditionUnknown, "empty": corev1.ConditionTrue,
	} {
		k.makeNode(node, ready)
		state := runs
		if node == "crashing" {
			state = crashes
		}
		if node != "empty" {
			k.makePod(defaultNamespace, "agent-"+node, node, agentLabels, state)
		}
	}
	k.playCluster(defaultNamespace, []string{"down"}, map[string]corev1.ContainerStatus{"failing": hasFailed})
	out := k.want(1, "no new pod starts there", "uninstall", "--timeout=30s")
	for _, text := range []string{
		"crashing: its agent was not ready: CrashLoopBackOff", "down: the node is not ready", "empty: no agent runs there",
		"failing: its agent ended with code 1: the plugin is busy",
		"duomesh uninstall --node crashing --node down --node empty --node failing",
		"deleted ConfigMap istio-system/duomesh-waypoint-defaults", "Namespace duomesh-system ends when",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
	if strings.Contains(out, "fine:") {
		t.Errorf("a node that was cleaned is named:\n%s", out)
	}
	k.wantGone()
	// Again it does no harm, and still names what is still so.
	out = k.want(1, "down: the node is not ready", "uninstall", "--timeout=30s")
	if strings.Contains(out, "empty:") {
		t.Errorf("without a DaemonSet it cannot know of nodes without an agent:\n%s", out)
	}
	k.want(1, "node empty is not cleaned: its pod has not ended", "uninstall", "--node", "empty", "--timeout=6s")
	k.want(1, `nodes "nowhere" not found`, "uninstall", "--node", "nowhere")
	pods, err := k.Client.CoreV1().Pods(cleanNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			t.Errorf("pod %s is left", p.Name)
		}
	}
}

// An agent that does not end in time keeps nothing but its node.
func TestUninstallGoesOn(t *testing.T) {
	k := startKubeCLI(t) // a second is left for the rest: not beside others
	k.makeNamespace("istio-system")
	k.installed()
	k.makeNode("slow", corev1.ConditionTrue)
	k.makePod(defaultNamespace, "agent", "slow", agentLabels, runs)
	k.want(1, "slow: its agent had not ended after 2s", "uninstall", "--timeout=3s")
	k.wantGone()
	k.want(0, "", "enroll", "namespace", "default") // the server is well
}

// The manifest that is printed for kubectl is what the command makes.
func TestCleanerIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "duomesh-clean")
	start := strings.LastIndex(string(text)[:len(text)-len(after)], "    apiVersion: v1\n")
	if start < 0 {
		t.Fatal("docs/kubernetes.md has no manifest of a pod duomesh-clean")
	}
	var manifest strings.Builder
	for line := range strings.Lines(string(text)[start:]) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok {
			break
		}
		manifest.WriteString(code)
	}
	all, err := kubetest.Parse([]byte(manifest.String()))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	rendered, err := releaseFlags{namespace: defaultNamespace}.objects()
	if err != nil {
		t.Fatal(err)
	}
	d, err := agentsOf(rendered)
	if err != nil {
		t.Fatal(err)
	}
	var documented corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(all[0].Object, &documented); err != nil {
		t.Fatal(err)
	}
	wantSame(t, documented.Spec, cleaner(d, "NODE").Spec)
	k := newKubeCLI(t)
	if err := unstructured.SetNestedField(all[0].Object, "node", "spec", "nodeName"); err != nil {
		t.Fatal(err)
	}
	if err := k.DryRun(t.Context(), all[0]); err != nil {
		t.Error(err)
	}
}

package main

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/kubetest"
)

// kubeCLI runs the command against a real API server.
type kubeCLI struct {
	*kubetest.Server
	t          *testing.T
	kubeconfig string
}

// newKubeCLI is startKubeCLI for a test that runs beside others of its kind: most of it
// is waiting.
func newKubeCLI(t *testing.T) kubeCLI {
	t.Helper()
	t.Parallel()
	return startKubeCLI(t)
}

func startKubeCLI(t *testing.T) kubeCLI {
	t.Helper()
	s := kubetest.Start(t)
	c := api.NewConfig()
	c.Clusters["c"] = &api.Cluster{Server: s.Config.Host, CertificateAuthority: s.Config.CAFile}
	c.AuthInfos["u"] = &api.AuthInfo{Token: s.Config.BearerToken}
	c.Contexts["x"] = &api.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		t.Fatal(err)
	}
	return kubeCLI{s, t, file}
}

// want runs a command that must end with a code and say a text.
func (k kubeCLI) want(code int, text string, args ...string) string {
	k.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asMainEnv+"=1", "KUBECONFIG="+k.kubeconfig)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		k.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(out.String(), text) {
		k.t.Errorf("%s: exit code %d, want %d with %q:\n%s", strings.Join(args, " "), got, code, text, &out)
	}
	return out.String()
}

// wantSame compares by what is written.
func wantSame(t *testing.T, got, want any) {
	t.Helper()
	texts := [2]string{}
	for i, v := range []any{got, want} {
		text, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] {
		t.Errorf("got\n%s\nwant\n%s", texts[0], texts[1])
	}
}

func (k kubeCLI) makeNamespace(name string) {
	k.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := k.Client.CoreV1().Namespaces().Create(k.t.Context(), ns, metav1.CreateOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

func (k kubeCLI) mode(namespace string) string {
	k.t.Helper()
	ns, err := k.Client.CoreV1().Namespaces().Get(k.t.Context(), namespace, metav1.GetOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	return ns.Labels[modeLabel]
}

func TestInstall(t *testing.T) {
	k := newKubeCLI(t)
	k.want(1, "namespace istio-system is not there: install istiod first", "install")
	if _, err := k.Client.CoreV1().Namespaces().Get(t.Context(), "duomesh-system", metav1.GetOptions{}); err == nil {
		t.Error("an installation that was refused has made a namespace")
	}
	k.makeNamespace("istio-system")
	k.want(1, "kubectl create namespace duomesh-system", "install", "--dry-run=server")
	k.want(2, "--dry-run maybe: must be client or server", "install", "--dry-run=maybe")
	k.want(2, "no such file", "install", "--values", "nowhere.yaml")
	// Nobody here runs a DaemonSet.
	k.want(1, "0 of 0 agents are ready", "install", "--timeout=2s", "--set", "clusterId=mine")
	d, err := k.Client.AppsV1().DaemonSets("duomesh-system").Get(t.Context(), agentName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		found = found || e.Name == "CLUSTER_ID" && e.Value == "mine"
	}
	if !found {
		t.Error("--set clusterId=mine did not come to the agent")
	}
	k.want(0, "applied DaemonSet duomesh-system/duomesh-agent (dry run)", "install", "--dry-run=server")
	k.want(1, "no agent runs in namespace duomesh-system", "status", "--kubeconfig", k.kubeconfig)
}

// Why an agent does not start is said by node.
func TestInstallSaysWhy(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("istio-system")
	k.installed()
	failed := crashes
	failed.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: "time=… level=WARN msg=\"no hand-offs\"\nduomesh-agent: this kernel lacks getpeername hooks\n"}
	k.makePod(defaultNamespace, "agent-old", "old-kernel", agentLabels, failed)
	creating := corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}
	k.makePod(defaultNamespace, "agent-ca", "no-ca", agentLabels, creating)
	k.makePod(defaultNamespace, "agent-fine", "fine", agentLabels, runs)
	at := metav1.Now()
	for i, e := range []corev1.Event{
		{Type: "Warning", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-ca"}, Reason: "Older", Message: "what was before"},
		{Type: "Warning", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-ca"}, Reason: "FailedMount", Message: `configmap "istio-ca-root-cert" not found`},
		{Type: "Normal", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-ca"}, Reason: "Pulled", Message: "no warning"},
		{Type: "Warning", InvolvedObject: corev1.ObjectReference{Kind: "DaemonSet", Name: agentName}, Reason: "FailedCreate", Message: "violates PodSecurity"},
	} {
		e.ObjectMeta = metav1.ObjectMeta{Name: "e" + strconv.Itoa(i), Namespace: defaultNamespace}
		e.InvolvedObject.Namespace = defaultNamespace
		e.LastTimestamp = metav1.NewTime(at.Add(time.Duration(i) * time.Minute))
		if _, err := k.Client.CoreV1().Events(defaultNamespace).Create(t.Context(), &e, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	out := k.want(1, "0 of 0 agents are ready", "install", "--timeout=3s")
	for _, text := range []string{
		"node old-kernel: CrashLoopBackOff\n    it ended, and said last: duomesh-agent: this kernel lacks getpeername hooks",
		"node no-ca: ContainerCreating\n    FailedMount: configmap \"istio-ca-root-cert\" not found",
	} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
	if strings.Contains(out, "node fine") || strings.Contains(out, "what was before") || strings.Contains(out, "no warning") {
		t.Errorf("it says more than what keeps an agent:\n%s", out)
	}
	if strings.Contains(out, "no hand-offs") {
		t.Errorf("it says more than the agent's last words:\n%s", out)
	}
	said := k.want(1, "the agent of node old-kernel does not answer: it does not run: CrashLoopBackOff; it ended, and said last: "+
		"duomesh-agent: this kernel lacks getpeername hooks", "status", "--kubeconfig", k.kubeconfig)
	if !strings.Contains(said, "the agent of node no-ca does not answer: it does not run: ContainerCreating") {
		t.Errorf("status says\n%s", said)
	}
	for _, p := range []string{"agent-old", "agent-ca", "agent-fine"} {
		if err := k.Client.CoreV1().Pods(defaultNamespace).Delete(t.Context(), p, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
	}
	k.want(1, "DaemonSet: FailedCreate: violates PodSecurity", "install", "--timeout=3s")
}

// A pod that is named without its namespace is one of the context's.
func TestProbeOfTheContextsNamespace(t *testing.T) {
	k := newKubeCLI(t)
	c, err := clientcmd.LoadFromFile(k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{"shop", ""} {
		c.Contexts["x"].Namespace = where
		if err := clientcmd.WriteToFile(*c, k.kubeconfig); err != nil {
			t.Fatal(err)
		}
		k.want(2, "there is no pod "+cmp.Or(where, "default")+"/web in the cluster", "probe", "--kubeconfig", k.kubeconfig, "--pod", "web")
		k.want(2, "there is no pod other/web in the cluster", "probe", "--kubeconfig", k.kubeconfig, "--pod", "other/web")
	}
}

// An agent that has ended and is tried again at this moment does not answer for the reason
// for which it ended; one that serves again has nothing to say of that.
func TestSilence(t *testing.T) {
	pod := func(ready bool, last string) *corev1.Pod {
		s := corev1.ContainerStatus{Ready: ready, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		if last != "" {
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: last}
		}
		p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{s}}}
		p.Spec.NodeName = "n"
		return p
	}
	const plain = "the agent of node n does not answer"
	for _, c := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{pod(false, "duomesh-agent: no BPF"), plain + ": it does not run: it is tried again; it ended, and said last: duomesh-agent: no BPF"},
		{pod(true, "duomesh-agent: no BPF"), plain},
		{pod(false, ""), plain},
	} {
		if got := silence(c.pod); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// A node whose agent never gets ready can keep the others from the new one: that is said.
func TestHeldUp(t *testing.T) {
	daemonset := func(most intstr.IntOrString, desired, updated, unavailable int32) *appsv1.DaemonSet {
		d := new(appsv1.DaemonSet)
		d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &most}
		d.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: desired, UpdatedNumberScheduled: updated, NumberUnavailable: unavailable}
		return d
	}
	one, tenth := intstr.FromInt32(1), intstr.FromString("10%")
	for _, c := range []struct {
		d    *appsv1.DaemonSet
		want string
	}{
		{daemonset(one, 3, 1, 1), "2 more wait for these, and go on as they are: --set maxUnavailable=2 does not let them wait"},
		{daemonset(tenth, 30, 3, 3), "27 more wait for these, and go on as they are: --set maxUnavailable=4"},
		{daemonset(tenth, 30, 3, 2), ""}, // it goes on
		{daemonset(one, 3, 3, 1), ""},    // nobody waits
		{new(appsv1.DaemonSet), ""},
	} {
		if got := heldUp(c.d); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.d.Status, got, c.want)
		}
	}
}

// Whatever an installation was made with, another one and the end leave nothing of it.
func TestInstallPrunes(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("istio-system")
	k.makeNamespace("istio-prod")
	foreign := user("v1", "ConfigMap", "istio-prod", "theirs", "", map[string]string{defaultsForClass: "istio-waypoint"})
	k.apply(foreign)
	there := func(namespace string) bool {
		t.Helper()
		_, err := k.Client.CoreV1().ConfigMaps(namespace).Get(t.Context(), "duomesh-waypoint-defaults", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	k.installed()
	k.want(0, "deleted ConfigMap istio-system/duomesh-waypoint-defaults (dry run)", "install", "--dry-run=server", "--set", "waypoint.enabled=false")
	if !there("istio-system") {
		t.Error("a dry run has deleted it")
	}
	k.installed("--set", "waypoint.namespace=istio-prod")
	if there("istio-system") || !there("istio-prod") {
		t.Error("the ConfigMap is not where istiod is said to be, or also where it was")
	}
	k.playCluster(defaultNamespace, nil, nil)
	k.want(0, "deleted ConfigMap istio-prod/duomesh-waypoint-defaults", "uninstall", "--timeout=30s")
	if there("istio-prod") {
		t.Error("istiod still puts an image into waypoints")
	}
	k.labelsOf(foreign) // is not ours, and stays
}

func TestEnroll(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("shop")
	k.want(0, "namespace shop is enrolled\nthis cluster has no agents yet: duomesh install", "enroll", "namespace", "shop")
	if got := k.mode("shop"); got != modeOurs {
		t.Errorf("its label is %q", got)
	}
	k.want(0, "namespace shop is not enrolled any more", "unenroll", "ns", "shop")
	if got := k.mode("shop"); got != "" {
		t.Errorf("its label is %q", got)
	}
	k.want(1, "there is no namespace nowhere", "enroll", "namespace", "nowhere")
	k.want(1, "there is no pod web-0 in namespace shop", "enroll", "pod", "-n", "shop", "web-0")
	k.want(2, "service: must be namespace or pod", "enroll", "service", "web")
	k.want(2, "want namespace NAME", "enroll", "namespace")
	k.want(1, "the cluster does not know kind Gateway", "waypoint", "list")
	k.want(2, "--for nobody: must be service, workload or all", "waypoint", "apply", "--for", "nobody")
}

// A typing error takes no other dataplane's pods out of it.
func TestEnrollLeavesOthersLabels(t *testing.T) {
	k := newKubeCLI(t)
	k.makeNamespace("shop")
	label := func(value string) {
		t.Helper()
		patch := labelPatch(modeLabel, value)
		if _, err := k.Client.CoreV1().Namespaces().Patch(t.Context(), "shop", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label("ambient")
	for _, act := range []string{"enroll", "unenroll"} {
		k.want(1, "namespace shop has label istio.io/dataplane-mode=ambient, which is another dataplane's", act, "ns", "shop")
		if got := k.mode("shop"); got != "ambient" {
			t.Errorf("%s took another dataplane's label: now %q", act, got)
		}
	}
	k.want(0, "namespace shop is enrolled", "enroll", "ns", "shop", "--overwrite")
	for _, ours := range []string{"kmesh", "none"} {
		label(ours)
		k.want(0, "namespace shop is not enrolled any more", "unenroll", "ns", "shop")
	}
	p := k.makePod("shop", "web", "node", map[string]string{modeLabel: "ambient"}, runs)
	k.want(1, "pod shop/web has label", "unenroll", "pod", "-n", "shop", p.Name)
	k.want(1, "pod shop/web has its label, but this cluster has no agents to heed it: duomesh install puts them there", "enroll", "pod", "-n", "shop", "--overwrite", p.Name)
	k.installed("--namespace", "elsewhere", "--set", "waypoint.enabled=false")
	k.want(1, "not confirmed for pods web", "enroll", "pod", "-n", "shop", "--overwrite", "--timeout=5s", p.Name)
	if out := k.want(0, "pod shop/web is to be enrolled", "enroll", "pod", "-n", "shop", "--wait=false", p.Name); strings.Contains(out, "is enrolled") {
		t.Errorf("what nobody has confirmed is said to be so: %s", out)
	}
}

// Scenarios do not wait for agents that nobody has installed.
func TestVerifyWithoutAgents(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF, kernel.PacketHook)
	k := newKubeCLI(t)
	k.want(2, "this cluster has no agents: duomesh install puts them there", "verify", "clusterip/weight/90-10", "--kubeconfig", k.kubeconfig)
}

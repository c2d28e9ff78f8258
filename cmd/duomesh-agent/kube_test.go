package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/kubetest"
)

const someChain = `{"cniVersion": "1.0.0", "name": "net", "plugins": [ {"type": "bridge"} ]}`

// kubeNode is a Kubernetes node for the command: a cgroup with a pod's process, a
// BPF file system, a CNI chain, and a real API server.
type kubeNode struct {
	t      *testing.T
	server *kubetest.Server
	cgroup string
	bpffs  string
	dir    string
	args   []string
}

func newKubeNode(t *testing.T) *kubeNode {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	n := &kubeNode{t: t, server: kubetest.Start(t), bpffs: t.TempDir(), dir: t.TempDir()}
	root, err := kernel.Cgroup2()
	must(t, err)
	n.cgroup, err = os.MkdirTemp(root, "duomesh-agent-cmd-")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(n.cgroup)) })
	t.Cleanup(func() { must(t, unix.Unmount(n.bpffs, 0)) }) // --mount-bpffs mounts it
	for file, content := range map[string]string{
		"intent.yaml": "version: 1\n", "plugin": "the plugin", "net/10-net.conflist": someChain, "bin/.keep": "",
	} {
		must(t, os.MkdirAll(filepath.Dir(n.path(file)), 0o755))
		must(t, os.WriteFile(n.path(file), []byte(content), 0o755))
	}
	n.kubeconfig()
	n.args = []string{
		"--source", "file:" + n.path("intent.yaml"), "--cgroup", n.cgroup, "--bpffs", n.bpffs, "--mount-bpffs",
		"--enrol-socket", n.path("run/enrol.sock"), "--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--node", "worker-1",
		"--kubernetes", "--kubeconfig", n.path("kubeconfig"), "--daemonset", "duomesh-agent",
		"--install-cni", "--cni-net-dir", n.path("net"), "--cni-bin-dir", n.path("bin"), "--cni-program", n.path("plugin"),
		"--cni-pass-namespace", "kube-system",
	}
	return n
}

func (n *kubeNode) path(name string) string { return filepath.Join(n.dir, name) }

func (n *kubeNode) kubeconfig() {
	n.t.Helper()
	c := clientapi.NewConfig()
	c.Clusters["c"] = &clientapi.Cluster{Server: n.server.Config.Host, CertificateAuthority: n.server.Config.CAFile}
	c.AuthInfos["u"] = &clientapi.AuthInfo{Token: n.server.Config.BearerToken}
	c.Contexts["x"] = &clientapi.Context{Cluster: "c", AuthInfo: "u"}
	c.CurrentContext = "x"
	must(n.t, clientcmd.WriteToFile(*c, n.path("kubeconfig")))
}

// furnish makes the objects: a node in a zone, the agent's DaemonSet, a pod.
func (n *kubeNode) furnish() *corev1.Pod {
	n.t.Helper()
	ctx, core := n.t.Context(), n.server.Client.CoreV1()
	_, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: "worker-1", Labels: map[string]string{corev1.LabelTopologyZone: "zone-b"},
	}}, metav1.CreateOptions{})
	must(n.t, err)
	for _, o := range kubetest.Objects(n.t, "../../deploy/manifests/duomesh.yaml") {
		if o.GetKind() == "Namespace" || o.GetKind() == "DaemonSet" {
			must(n.t, n.server.Apply(ctx, o))
		}
	}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio.io/dataplane-mode": "Kmesh"}}}
	_, err = core.Namespaces().Create(ctx, shop, metav1.CreateOptions{})
	must(n.t, err)
	pod, err := core.Pods("shop").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0"},
		Spec:       corev1.PodSpec{NodeName: "worker-1", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}, metav1.CreateOptions{})
	must(n.t, err)
	made := time.Now().Unix()
	await(n.t, "the pod is younger than the DaemonSet by the API's whole seconds", func() bool { return time.Now().Unix() > made })
	n.live(pod)
	return pod
}

// live plays kubelet: the pod's cgroup, and a process in a namespace of its own.
func (n *kubeNode) live(pod *corev1.Pod) {
	n.t.Helper()
	dir := filepath.Join(n.cgroup, "pod"+string(pod.UID))
	must(n.t, os.Mkdir(dir, 0o755))
	cgroup, err := os.Open(dir)
	must(n.t, err)
	defer cgroup.Close()
	ns, err := kernel.NewNetns()
	must(n.t, err)
	defer ns.Close()
	sleep := exec.Command("sleep", "600")
	sleep.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	must(n.t, kernel.InNetns(ns, sleep.Start))
	n.t.Cleanup(func() {
		must(n.t, sleep.Process.Kill())
		_ = sleep.Wait() // "signal: killed"
		await(n.t, "the pod's cgroup can be removed", func() bool { return os.Remove(dir) == nil })
	})
}

// said is a log that is read while it is written.
type said struct {
	mu   sync.Mutex
	data bytes.Buffer
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.String()
}

// start runs the agent; stop ends it and returns its exit code.
func (n *kubeNode) start() (log *said, stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	log = &said{}
	code := make(chan int, 1)
	env := map[string]string{"POD_NAMESPACE": "duomesh-system"}
	go func() { code <- run(ctx, n.args, func(key string) string { return env[key] }, log, log) }()
	stop = sync.OnceValue(func() int { cancel(); return <-code })
	n.t.Cleanup(func() {
		stop()
		if n.t.Failed() {
			n.t.Logf("the agent said:\n%s", log)
		}
	})
	return log, stop
}

func (n *kubeNode) chain() string {
	data, err := os.ReadFile(n.path("net/10-net.conflist"))
	must(n.t, err)
	return string(data)
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

// servedAt is what the agent's log says of where it serves something.
func servedAt(log *said, what string) string {
	m := regexp.MustCompile(what + `=(127\.0\.0\.1:\d+)`).FindStringSubmatch(log.String())
	if m == nil {
		return ""
	}
	return m[1]
}

// measured reports whether a metric says so.
func (n *kubeNode) measured(log *said, line string) bool {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://"+servedAt(log, "metrics")+"/metrics", nil)
	must(n.t, err)
	res, err := http.DefaultClient.Do(req)
	must(n.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(n.t, err)
	return strings.Contains(string(text), line+"\n")
}

// TestKubernetesNode runs the agent as the DaemonSet does, replaces it, and
// uninstalls it.
func TestKubernetesNode(t *testing.T) {
	n := newKubeNode(t)
	pod := n.furnish()
	annotated := func() bool {
		now, err := n.server.Client.CoreV1().Pods("shop").Get(t.Context(), pod.Name, metav1.GetOptions{})
		must(t, err)
		return now.Annotations["kmesh.net/redirection"] == "enabled"
	}
	installed := func() bool { return strings.Contains(n.chain(), `"passNamespaces":["kube-system"]`) }

	log, stop := n.start()
	await(t, "the pod is redirected", annotated)
	await(t, "the plugin is in the chain", installed)
	await(t, "the metrics say so", func() bool { return n.measured(log, "duomesh_cni_chained 1") })
	must(t, os.Rename(n.path("net/10-net.conflist"), n.path("aside")))
	await(t, "and the status, when there is no chain", func() bool {
		s, err := api.NewClient(api.Place{Address: servedAt(log, "admin")}).Status(t.Context(), "")
		return err == nil && strings.Contains(s.Chain, "has no configuration that can be read")
	})
	if !n.measured(log, "duomesh_cni_chained 0") {
		t.Error("the metrics do not say that the plugin is in no chain")
	}
	// Its DaemonSet was there when the pod started, and no plugin brought it.
	await(t, "the metrics say that the pod was outside", func() bool { return n.measured(log, "duomesh_pods_outside_at_start_total 1") })
	must(t, os.Rename(n.path("aside"), n.path("net/10-net.conflist")))
	await(t, "the plugin is in the chain again", func() bool { return n.measured(log, "duomesh_cni_chained 1") })
	if code := stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if !installed() || !dataplane.Pinned(n.bpffs) {
		t.Error("the agent that is replaced took plugin or pins away")
	}

	log, stop = n.start()
	await(t, "the next agent is there", func() bool { return strings.Contains(log.String(), "the node's pods and all namespaces are known") })
	must(t, n.server.Client.AppsV1().DaemonSets("duomesh-system").Delete(t.Context(), "duomesh-agent", metav1.DeleteOptions{}))
	await(t, "the agent sees that it is uninstalled", func() bool { return strings.Contains(log.String(), "own DaemonSet was deleted") })
	if code := stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if got := n.chain(); got != someChain {
		t.Errorf("the chain is not as it was: %s", got)
	}
	if annotated() {
		t.Error("the engine is gone, and the pod says that it is redirected")
	}
	if _, err := os.Stat(n.path("bin/duomesh-cni")); err == nil || dataplane.Pinned(n.bpffs) {
		t.Error("plugin or pins are left")
	}
}

func TestKubernetesUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a plugin without labels": {[]string{"--install-cni"}, "which --kubernetes makes known"},
		"no API server":           {[]string{"--kubernetes", "--kubeconfig", "/no/such/file"}, "--kubernetes: stat /no/such/file"},
		"a policy":                {[]string{"--uninstall-cni", "--cni-agent-absent", "perhaps"}, `agentAbsent "perhaps"`},
	} {
		kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
		code, said := try(t.Context(), nil, append([]string{"--source", "file:x", "--bpffs", ""}, c.args...)...)
		if code != exitUsage || !strings.Contains(said, c.want) {
			t.Errorf("%s: exit code %d, said %q", name, code, said)
		}
	}
}

func TestUninstallCNI(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "10.conflist"), []byte(`{"name":"x","plugins":[{"type":"a"},{"type":"duomesh-cni"}]}`), 0o644))
	code, said := try(t.Context(), nil, "--uninstall-cni", "--cni-net-dir", dir, "--cni-bin-dir", dir)
	data, err := os.ReadFile(filepath.Join(dir, "10.conflist"))
	must(t, err)
	if code != exitOK || string(data) != `{"name":"x","plugins":[{"type":"a"}]}` {
		t.Errorf("exit code %d, said %q, the chain is %s", code, said, data)
	}
}

package cni_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/cni"
	"github.com/duomesh/duomesh/dataplane/cni/install"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// TestMain is three programs: the tests, and by its name each plugin of the chain.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case cni.Type:
		skel.PluginMainFuncs(cni.Funcs(os.Stderr), cni.Versions(), "")
	case "first":
		skel.PluginMainFuncs(skel.CNIFuncs{Add: firstAdd, Check: nothing, Del: nothing}, version.All, "")
	default:
		os.Exit(m.Run())
	}
}

func nothing(*skel.CmdArgs) error { return nil }

const firstAddress = "10.1.7.0/24"

// firstAdd is a plugin whose network is a name.
func firstAdd(args *skel.CmdArgs) error {
	var conf types.NetConf
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return err
	}
	_, address, err := net.ParseCIDR(firstAddress)
	if err != nil {
		return err
	}
	return types.PrintResult(&current.Result{
		CNIVersion: current.ImplementedSpecVersion, Interfaces: []*current.Interface{{Name: "first0", Sandbox: args.Netns}},
		IPs: []*current.IPConfig{{Address: *address}},
	}, cmp.Or(conf.CNIVersion, "0.1.0"))
}

// world is a node's runtime: a chain made by package install, and where an agent
// would be.
type world struct {
	t      *testing.T
	net    string
	socket string
	cni    *libcni.CNIConfig
}

func newWorld(t *testing.T, conf cni.Conf) *world {
	t.Helper()
	kernel.Require(t, kernel.Root)
	w := &world{t: t, net: t.TempDir(), socket: filepath.Join(t.TempDir(), "run", "enrol.sock")}
	bin := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	must(t, os.Symlink(self, filepath.Join(bin, "first")))
	must(t, os.WriteFile(filepath.Join(w.net, "10-first.conf"), []byte(`{"cniVersion":"1.0.0","name":"test","type":"first"}`), 0o644))
	conf.Socket = w.socket
	i, err := install.New(install.Config{NetDir: w.net, BinDir: bin, Program: self, Plugin: conf})
	must(t, err)
	installed, err := i.Ensure()
	must(t, err)
	if !installed {
		t.Fatal("the plugin is not installed")
	}
	w.cni = libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil)
	return w
}

func (w *world) list() *libcni.NetworkConfigList {
	w.t.Helper()
	files, err := libcni.ConfFiles(w.net, []string{".conf", ".conflist", ".json"})
	must(w.t, err)
	list, err := libcni.ConfListFromFile(files[0])
	must(w.t, err)
	return list
}

// sandbox is a pod as a runtime has it before its first process.
type sandbox struct {
	ns *os.File
	rt *libcni.RuntimeConf
}

func (w *world) sandbox(namespace, name, uid string) sandbox {
	w.t.Helper()
	ns, err := kernel.NewNetns()
	must(w.t, err)
	w.t.Cleanup(func() { ns.Close() })
	return sandbox{ns, &libcni.RuntimeConf{
		ContainerID: "sandbox-" + uid, IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()),
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", name}, {"K8S_POD_UID", uid}},
	}}
}

func (w *world) add(s sandbox) error {
	return w.addTo(w.list(), s)
}

func (w *world) addTo(list *libcni.NetworkConfigList, s sandbox) error {
	w.t.Helper()
	result, err := w.cni.AddNetworkList(w.t.Context(), list, s.rt)
	if said, merr := json.Marshal(result); err == nil && (merr != nil || !strings.Contains(string(said), firstAddress)) {
		w.t.Errorf("the result of the plugin before is lost: %v", result)
	}
	return err
}

// labels decide by the pod's name.
type labels struct{}

func (labels) Admit(_ context.Context, pod, _ string) (api.Verdict, error) {
	switch {
	case strings.Contains(pod, "unsure"):
		return api.Verdict{}, api.NotYet(errors.New("nobody says what it is"))
	case strings.Contains(pod, "unheard"):
		return api.Verdict{}, errors.New("it is not on this node")
	}
	return api.Verdict{Managed: !strings.Contains(pod, "plain"), Reason: "by its name"}, nil
}

func (labels) Cgroup(string) (string, error) { return "", fs.ErrNotExist }

// agent starts a real agent on the world's socket, and returns what ends it.
func (w *world) agent(cgroup string) (stop func()) {
	w.t.Helper()
	dir, err := os.Open(cgroup)
	must(w.t, err)
	a, err := agent.Open(agent.Config{
		Host:   dataplane.Host{Cgroup: dir, Place: intent.Place{Node: "a"}},
		Source: "test", EnrolSocket: w.socket, State: w.socket + ".json", Admission: labels{}, Log: slog.New(slog.DiscardHandler),
	})
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	updates := make(chan agent.Update, 1)
	updates <- agent.Update{Version: "empty"}
	go func() { ended <- a.Run(ctx, updates) }()
	return func() {
		cancel()
		must(w.t, errors.Join(<-ended, a.Close(), dir.Close()))
	}
}

func (w *world) pods() string {
	w.t.Helper()
	pods, err := api.List(w.t.Context(), w.socket)
	must(w.t, err)
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

func newCgroup(t *testing.T) string {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	root, err := kernel.Cgroup2()
	must(t, err)
	dir := filepath.Join(root, fmt.Sprintf("duomesh-cni-test-%d", os.Getpid()))
	must(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { must(t, os.Remove(dir)) })
	return dir
}

func TestChainWithAnAgent(t *testing.T) {
	cgroup := newCgroup(t)
	w := newWorld(t, cni.Conf{})
	defer w.agent(cgroup)()
	managed, plain := w.sandbox("shop", "web-0", "u1"), w.sandbox("shop", "plain", "u2")

	must(t, w.add(managed))
	must(t, w.add(plain))
	if got := w.pods(); got != "shop/web-0" {
		t.Errorf("managed are %q", got)
	}
	for _, s := range []sandbox{managed, plain} {
		must(t, w.cni.CheckNetworkList(t.Context(), w.list(), s.rt))
	}
	// Somebody takes it out behind the runtime's back: CHECK says so.
	must(t, api.Leave(t.Context(), w.socket, "shop/web-0", managed.ns))
	wantCode(t, w.cni.CheckNetworkList(t.Context(), w.list(), managed.rt), cni.CodeRefused, "the kernel has no entry")
	must(t, w.add(managed))

	// A pod of no Kubernetes is not asked about.
	bare := w.sandbox("", "", "u3")
	bare.rt.Args = nil
	must(t, w.add(bare))
	wantCode(t, w.add(w.sandbox("shop", "unheard", "u4")), cni.CodeRefused, "it is not on this node")

	// The namespace is gone: what is left of its name is a plain file.
	file := filepath.Join(t.TempDir(), "netns")
	must(t, os.WriteFile(file, nil, 0o600))
	managed.rt.NetNS = file
	for range 2 {
		must(t, w.cni.DelNetworkList(t.Context(), w.list(), managed.rt))
	}
	must(t, w.cni.DelNetworkList(t.Context(), w.list(), plain.rt))
	if got := w.pods(); got != "" {
		t.Errorf("managed are %q", got)
	}
}

func TestAgentThatIsReplaced(t *testing.T) {
	cgroup := newCgroup(t)
	w := newWorld(t, cni.Conf{WaitSeconds: 60})
	s := w.sandbox("shop", "web-0", "u1")
	added := make(chan error)
	go func() { added <- w.add(s) }() // before there is an agent
	defer w.agent(cgroup)()
	must(t, <-added)
	if got := w.pods(); got != "shop/web-0" {
		t.Errorf("managed are %q", got)
	}
}

func TestWithoutAnAgent(t *testing.T) {
	closed := newWorld(t, cni.Conf{WaitSeconds: 1, PassNamespaces: []string{"kube-system"}})
	s := closed.sandbox("shop", "web-0", "u1")
	wantCode(t, closed.add(s), types.ErrTryAgainLater, "pod shop/web-0 does not start without the agent")
	must(t, closed.add(closed.sandbox("kube-system", "dns", "u2")))
	must(t, closed.cni.DelNetworkList(t.Context(), closed.list(), s.rt))

	open := newWorld(t, cni.Conf{WaitSeconds: 1, AgentAbsent: cni.AbsentPass})
	must(t, open.add(open.sandbox("shop", "web-0", "u1")))
}

// TestAgentThatCannotTell: it answers, and cannot say now what the pod is. The policy holds as
// for one that does not answer.
func TestAgentThatCannotTell(t *testing.T) {
	cgroup := newCgroup(t)
	w := newWorld(t, cni.Conf{WaitSeconds: 1, PassNamespaces: []string{"kube-system"}})
	defer w.agent(cgroup)()
	wantCode(t, w.add(w.sandbox("shop", "unsure", "u1")), types.ErrTryAgainLater, "nobody says what it is")
	must(t, w.add(w.sandbox("kube-system", "unsure", "u2")))
}

// TestOldLists: people write lists without a version, which stands for 0.1.0, or of one from
// before there were lists.
func TestOldLists(t *testing.T) {
	cgroup := newCgroup(t)
	w := newWorld(t, cni.Conf{})
	defer w.agent(cgroup)()
	for i, version := range []string{"", `"cniVersion":"0.1.0",`, `"cniVersion":"0.2.0",`, `"cniVersion":"0.3.0",`} {
		list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{%s"name":"old","plugins":[{"type":"first"},{"type":%q,"socket":%q}]}`,
			version, cni.Type, w.socket))
		must(t, err)
		s := w.sandbox("shop", fmt.Sprintf("web-%d", i), fmt.Sprintf("u%d", i))
		if err := w.addTo(list, s); err != nil {
			t.Errorf("ADD by a list with %q: %v", version, err)
			continue
		}
		if got := w.pods(); got != fmt.Sprintf("shop/web-%d", i) {
			t.Errorf("managed are %q", got)
		}
		must(t, w.cni.DelNetworkList(t.Context(), list, s.rt))
		if got := w.pods(); got != "" {
			t.Errorf("managed are %q after DEL", got)
		}
	}
}

func TestBadConfiguration(t *testing.T) {
	w := newWorld(t, cni.Conf{})
	s := w.sandbox("shop", "web-0", "u1")
	for conf, want := range map[string]string{
		`{"type":"first"},{"type":"duomesh-cni","agentAbsent":"perhaps"}`: `agentAbsent "perhaps": want fail or pass`,
		`{"type":"first"},{"type":"duomesh-cni","waitSeconds":-1}`:        "waitSeconds -1",
		`{"type":"first"},{"type":"duomesh-cni","socket":7}`:              "read the configuration",
		`{"type":"duomesh-cni"}`:                                          "makes no network of its own",
	} {
		list, err := libcni.ConfListFromBytes([]byte(`{"cniVersion":"1.0.0","name":"x","plugins":[` + conf + `]}`))
		must(t, err)
		_, err = w.cni.AddNetworkList(t.Context(), list, s.rt)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", conf, err)
		}
	}
	s.rt.NetNS = "/nowhere"
	wantCode(t, w.add(s), types.ErrInvalidNetNS, "open the network namespace of pod shop/web-0")
}

func wantCode(t *testing.T, err error, code uint, words string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error(), words) {
		t.Errorf("got %v, want code %d and %q", err, code, words)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

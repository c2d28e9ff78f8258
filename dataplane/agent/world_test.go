package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

var testStart = time.Unix(1, 0)

// ground is a node without an agent: a cgroup, a BPF file system, a directory.
type ground struct {
	cgroup string
	bpffs  string
	dir    string
}

var grounds atomic.Int64

func newGround(t *testing.T) *ground {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	root, err := kernel.Cgroup2()
	must(t, err)
	g := &ground{
		cgroup: filepath.Join(root, fmt.Sprintf("duomesh-agent-test-%d-%d", os.Getpid(), grounds.Add(1))),
		bpffs:  t.TempDir(), dir: t.TempDir(),
	}
	must(t, os.Mkdir(g.cgroup, 0o755))
	t.Cleanup(func() { g.removeCgroup(t) })
	must(t, unix.Mount("none", g.bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(g.bpffs, 0)) })
	return g
}

func (g *ground) removeCgroup(t *testing.T) {
	t.Helper()
	if err := os.Remove(g.cgroup); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func (g *ground) config(t *testing.T) Config {
	t.Helper()
	dir, err := os.Open(g.cgroup)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	return Config{
		Host:        dataplane.Host{Cgroup: dir, BPFFS: g.bpffs, Place: intent.Place{Node: "a"}},
		Source:      "test",
		EnrolSocket: filepath.Join(g.dir, "run", "enrol.sock"), State: filepath.Join(g.dir, "run", "enrolled.json"),
		Admin: "127.0.0.1:0", Metrics: "127.0.0.1:0", Watch: 10 * time.Millisecond,
	}
}

// running is an agent whose Run has been called.
type running struct {
	*Agent
	t       *testing.T
	updates chan Update
	client  *api.Client
	cancel  context.CancelFunc
	ended   chan error
	stopped bool
	atStop  func() // before the agent is told
}

func (g *ground) start(t *testing.T) *running {
	t.Helper()
	return g.startAs(t, g.config(t))
}

func (g *ground) startAs(t *testing.T, cfg Config) *running {
	t.Helper()
	a, err := Open(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{
		Agent: a, t: t, updates: make(chan Update), cancel: cancel, ended: make(chan error, 1),
		client: api.NewClient(api.Place{Address: a.Admin()}),
	}
	go func() { r.ended <- a.Run(ctx, r.updates) }()
	t.Cleanup(func() {
		if !r.stopped {
			must(t, r.stop())
		}
	})
	return r
}

// stop ends the agent as SIGTERM does, and returns what Run and Close say.
func (r *running) stop() error {
	if r.atStop != nil {
		r.atStop()
	}
	r.cancel()
	r.stopped = true
	return errors.Join(<-r.ended, r.client.Close(), r.Close())
}

// apply hands over an update and returns the status after it.
func (r *running) apply(u Update) api.Status {
	r.t.Helper()
	r.updates <- u
	s, err := r.client.Status(deadline(r.t), u.Version)
	must(r.t, err)
	return s
}

func (r *running) status() api.Status {
	r.t.Helper()
	s, err := r.client.Status(deadline(r.t), "")
	must(r.t, err)
	return s
}

func (r *running) get(url string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(deadline(r.t), http.MethodGet, url, nil)
	must(r.t, err)
	res, err := http.DefaultClient.Do(req)
	must(r.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(r.t, err)
	return res.StatusCode, string(body)
}

func (r *running) entries() int {
	r.t.Helper()
	n, err := r.pods.entries()
	must(r.t, err)
	return n
}

// eventually fails when a condition does not become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// somePod is a pod: a namespace, a cgroup, and a process when it has one.
type somePod struct {
	name   string
	netns  *os.File
	cgroup *os.File
	proc   *exec.Cmd
}

func (g *ground) pod(t *testing.T, name string) *somePod {
	t.Helper()
	ns, err := kernel.NewNetns()
	must(t, err)
	dir := filepath.Join(g.cgroup, name)
	must(t, os.Mkdir(dir, 0o755))
	cgroup, err := os.Open(dir)
	must(t, err)
	p := &somePod{name: "default/" + name, netns: ns, cgroup: cgroup}
	t.Cleanup(func() { p.end(t) })
	return p
}

// live gives the pod a process.
func (p *somePod) live(t *testing.T) {
	t.Helper()
	p.proc = exec.Command("sleep", "600")
	p.proc.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.cgroup.Fd())}
	must(t, kernel.InNetns(p.netns, p.proc.Start))
}

// end ends the pod: process, namespace and cgroup. It may be repeated.
func (p *somePod) end(t *testing.T) {
	t.Helper()
	if p.cgroup == nil {
		return
	}
	if p.proc != nil {
		must(t, p.proc.Process.Kill())
		p.proc.Wait() // "signal: killed"
	}
	p.netns.Close()
	name := p.cgroup.Name()
	p.cgroup.Close()
	p.cgroup = nil
	eventually(t, "an empty cgroup can be removed", func() bool { return os.Remove(name) == nil })
}

func (p *somePod) enrol(t *testing.T, r *running) error {
	return api.Enrol(deadline(t), r.cfg.EnrolSocket, p.name, p.netns, p.cgroup)
}

// web is a service with one endpoint.
func web(version string, endpoint string) Update {
	w := &intent.Workload{
		UID: "w", Name: "w", Namespace: "default", Weight: 1,
		Addresses: []netip.Addr{netip.MustParseAddr(endpoint)},
	}
	return Update{Version: version, Snapshot: intent.Snapshot{
		Workloads: []*intent.Workload{w},
		Services: []*intent.Service{{
			Name: "web", Namespace: "default", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1")},
			Ports:     []intent.Port{{Port: 80, Target: 8080, Protocol: intent.TCP}},
			Endpoints: []intent.Endpoint{{Workload: w}},
		}},
	}}
}

// exit makes the pod connect to the service once, and returns how the engine's
// decision ended. The namespace has no route: the connect itself fails.
func (p *somePod) exit(t *testing.T, r *running) intent.Exit {
	t.Helper()
	before, err := r.node.Exits()
	must(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), dialEnv+"=10.9.0.1:80")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.cgroup.Fd())}
	must(t, kernel.InNetns(p.netns, cmd.Start))
	must(t, cmd.Wait())
	after, err := r.node.Exits()
	must(t, err)
	for name, n := range after {
		if n == before[name]+1 {
			return name
		}
	}
	t.Fatalf("no exit was counted: %v", after)
	return ""
}

// dialEnv asks the test binary to connect once, and to end.
const dialEnv = "DUOMESH_AGENT_TEST_DIAL"

func TestMain(m *testing.M) {
	if to := os.Getenv(dialEnv); to != "" {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			os.Exit(1)
		}
		a := netip.MustParseAddrPort(to)
		_ = unix.Connect(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
		os.Exit(0)
	}
	if os.Getenv(versionEnv) != "" {
		exitWithVersion()
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/kernel"
)

// asMainEnv makes the test binary the command.
const asMainEnv = "DUOMESH_AGENT_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMainEnv) != "" {
		if err := playOlder(os.Getenv(olderEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitUsage)
		}
		main()
	}
	os.Exit(m.Run())
}

// ground is where an agent of its own runs.
type ground struct {
	testing.TB
	cgroup, bpffs, dir string
}

func newGround(tb testing.TB) *ground {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	root, err := kernel.Cgroup2()
	must(tb, err)
	n := &ground{TB: tb, bpffs: tb.TempDir(), dir: tb.TempDir()}
	n.cgroup, err = os.MkdirTemp(root, "duomesh-agent-cmd-")
	must(tb, err)
	tb.Cleanup(func() { must(tb, os.Remove(n.cgroup)) })
	must(tb, unix.Mount("none", n.bpffs, "bpf", 0, ""))
	tb.Cleanup(func() { must(tb, unix.Unmount(n.bpffs, 0)) })
	return n
}

// child is an agent in a process of its own, asked on its admin socket.
type child struct {
	*ground
	cmd    *exec.Cmd
	admin  *api.Client
	log    *bytes.Buffer
	ended  chan error
	killed bool
	// metrics is where they are.
	metrics string
}

// start starts an agent with more flags, and returns when it answers.
func (n *ground) start(args ...string) *child {
	n.Helper()
	port := freePort(n)
	c := &child{ground: n, log: &bytes.Buffer{}, ended: make(chan error, 1), metrics: "127.0.0.1:" + freePort(n)}
	c.cmd = exec.Command("/proc/self/exe", append([]string{
		"--cgroup", n.cgroup, "--bpffs", n.bpffs, "--enrol-socket", filepath.Join(n.dir, "enrol.sock"), "--node", "a",
		"--metrics", c.metrics, "--admin", "127.0.0.1:" + port,
	}, args...)...)
	c.cmd.Env = append(os.Environ(), asMainEnv+"=1")
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(n, c.cmd.Start())
	c.admin = api.NewClient(api.Place{Address: "127.0.0.1:" + port})
	go func() { c.ended <- c.cmd.Wait() }()
	n.Cleanup(c.kill)
	c.eventually("it answers", func() bool { _, err := c.admin.Status(n.Context(), ""); return err == nil })
	return c
}

// kill ends it as a crash does. It may be repeated.
func (c *child) kill() {
	if c.killed {
		return
	}
	c.killed = true
	must(c, c.admin.Close())
	must(c, c.cmd.Process.Kill())
	<-c.ended // "signal: killed"
	if c.Failed() {
		c.Logf("the agent said:\n%s", c.log)
	}
}

func (n *ground) eventually(what string, is func() bool) {
	n.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(60 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			n.Fatalf("never: %s", what)
		}
	}
}

// seen waits until a version of the source was applied or refused.
func (c *child) seen(version int) api.Status {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := c.admin.Status(ctx, strconv.Itoa(version))
	must(c, err)
	return s
}

func (c *child) status() api.Status {
	c.Helper()
	s, err := c.admin.Status(context.Background(), "")
	must(c, err)
	return s
}

// memory is a line of /proc/PID/status, in bytes.
func (c *child) memory(key string) float64 {
	c.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/status")
	must(c, err)
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(line, key+":"); is {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			must(c, err)
			return float64(kb) * 1024
		}
	}
	c.Fatalf("no %s", key)
	return 0
}

// cpu is the processor time that the process has had (proc_pid_stat(5)).
func (c *child) cpu() time.Duration {
	c.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/stat")
	must(c, err)
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	sum := 0
	for _, i := range []int{11, 12} { // utime, stime, in ticks of 10 ms
		n, err := strconv.Atoi(fields[i])
		must(c, err)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// metric is the value of one of its metrics.
func (c *child) metric(name string) float64 {
	c.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+c.metrics+"/metrics", nil)
	must(c, err)
	res, err := http.DefaultClient.Do(req)
	must(c, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(c, err)
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(line, name+" "); is {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			must(c, err)
			return v
		}
	}
	c.Fatalf("no metric %s in:\n%s", name, text)
	return 0
}

// settledMemory is VmRSS when it does not fall any more.
func (c *child) settledMemory() float64 {
	c.Helper()
	last, same := c.memory("VmRSS"), 0
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for same < 5 {
		<-tick.C
		now := c.memory("VmRSS")
		if same++; now < last-1e6 {
			same = 0
		}
		last = now
	}
	return last
}

// scripted is a control plane, and the flags with which an agent asks it.
func scripted(tb testing.TB, first ...*discovery.Resource) (*adstest.Server, []string) {
	tb.Helper()
	s, err := adstest.Start(adstest.Options{})
	must(tb, err)
	tb.Cleanup(func() { must(tb, s.Close()) })
	s.Change(addressType, first)
	return s, []string{"--source", "xds:" + s.Address(), "--xds-plaintext"}
}

const addressType = "type.googleapis.com/istio.workload.Address"

func serviceResource(name string, ip [4]byte) *discovery.Resource {
	host := name + ".demo.svc.cluster.local"
	return adstest.Resource("demo/"+host, &workloadapi.Address{Type: &workloadapi.Address_Service{Service: &workloadapi.Service{
		Name: name, Namespace: "demo", Hostname: host, Canonical: true,
		Addresses: []*workloadapi.NetworkAddress{{Address: ip[:]}},
		Ports:     []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}},
	}}})
}

// podResource is a pod as istiod sends it, behind one service.
func podResource(name, service string, ip [4]byte) *discovery.Resource {
	uid := "Kubernetes//Pod/demo/" + name
	return adstest.Resource(uid, &workloadapi.Address{Type: &workloadapi.Address_Workload{Workload: &workloadapi.Workload{
		Uid: uid, Name: name, Namespace: "demo", Addresses: [][]byte{ip[:]}, TunnelProtocol: workloadapi.TunnelProtocol_HBONE,
		ServiceAccount: "default", Node: "node-" + strconv.Itoa(int(ip[3])%100), CanonicalName: service, CanonicalRevision: "latest",
		WorkloadName: name, ClusterId: "Kubernetes", Locality: &workloadapi.Locality{Region: "r1", Zone: "z1"},
		Services: map[string]*workloadapi.PortList{
			"demo/" + service + ".demo.svc.cluster.local": {Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}}},
		},
	}}})
}

// freePort is a port that was free a moment ago.
func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(tb, err)
	must(tb, l.Close())
	return port
}

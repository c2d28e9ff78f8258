package ambient

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The scripted proxy is this test binary under another name; the second argument
// says what goes wrong.
const scripted = "scripted-proxy"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == scripted {
		os.Exit(scriptedProxy(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func scriptedProxy(args []string) int {
	switch args[0] {
	case "version":
		fmt.Fprintln(os.Stdout, "version.BuildInfo{Version:\"1\"}")
		return 0
	case "ends":
		fmt.Fprintln(os.Stderr, "FAKE_CA needs another build")
		return 101
	}
	// "silent": it runs, and asks for nothing.
	var b [1]byte
	os.Stdin.Read(b[:])
	return 0
}

// child is a process for a test's node.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func (c *child) PID() int              { return c.cmd.Process.Pid }
func (c *child) Done() <-chan struct{} { return c.done }
func (c *child) Wait() error           { <-c.done; return c.err }
func (c *child) Stop(context.Context)  { c.cmd.Process.Kill(); <-c.done }

func startHere(ctx context.Context, c Command) (Process, error) {
	cmd := exec.CommandContext(ctx, c.Path)
	cmd.Args, cmd.Env, cmd.Dir, cmd.Stderr, cmd.Stdout = c.Argv, c.Env, c.Dir, c.Log, c.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, keep, err := os.Pipe() // an input that does not end while the test runs
	if err != nil {
		return nil, err
	}
	cmd.Stdin = hold
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, hold.Close(), keep.Close())
	}
	p := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		hold.Close()
		keep.Close()
		close(p.done)
	}()
	return p, nil
}

func config(t *testing.T, fault string) Config {
	t.Helper()
	node, pod := space(t), space(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Program: Program{Binary: exe, Argv: []string{scripted, fault}}, Protocol: HBONE, Workers: 2, AccessLog: true, Dir: filepath.Join(t.TempDir(), "mesh"),
		Nodes: []Node{{Name: "a", Netns: node, Start: startHere}},
		Pods:  []Pod{{Name: "client", Node: "a", ServiceAccount: "client", Address: netip.MustParseAddr("10.1.1.1"), Netns: pod}},
	}
}

// TestProxyThatEndsIsNamed: with its last words, and where its log is.
func TestProxyThatEndsIsNamed(t *testing.T) {
	cfg := config(t, "ends")
	m, err := Open(t.Context(), cfg)
	if err == nil {
		t.Fatalf("opened: %+v", m)
	}
	for _, want := range []string{"node a", "exit status 101", "FAKE_CA needs another build", ".log"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %q in it", err, want)
		}
	}
	_, log, _ := strings.Cut(err.Error(), "all of it: ")
	log, _, _ = strings.Cut(log, ")")
	if _, err := os.Stat(log); err != nil {
		t.Errorf("the log was not kept: %v", err)
	}
	if err := os.Remove(log); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cfg.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files of the mesh were left: %v", err)
	}
	if err := dial(cfg.Pods[0].Netns, "127.0.0.1:15008", 0); err == nil {
		t.Error("something still listens in the pod")
	}
}

// TestVersionIsAsked: what has nothing to say of its version is no node proxy.
func TestVersionIsAsked(t *testing.T) {
	for _, c := range []struct{ script, want, fails string }{
		{"echo 'version.BuildInfo{Version:\"1\"}  '", `version.BuildInfo{Version:"1"}`, ""},
		{"true", "", "it says nothing"},
		{"exit 3", "", "exit status 3"},
	} {
		path := filepath.Join(t.TempDir(), "ztunnel")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := Version(t.Context(), path)
		if c.fails == "" && (err != nil || got != c.want) {
			t.Errorf("%s: %q, %v", c.script, got, err)
		}
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %q, %v, want %q", c.script, got, err, c.fails)
		}
	}
}

// TestProxyThatAsksForNothing: the caller's patience ends the wait.
func TestProxyThatAsksForNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config(t, "silent")
	start := cfg.Nodes[0].Start
	cfg.Nodes[0].Start = func(ctx context.Context, c Command) (Process, error) {
		p, err := start(ctx, c)
		cancel()
		return p, err
	}
	_, err := Open(ctx, cfg)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "does not ask for its pods") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(err.Error(), "it said nothing") {
		t.Errorf("%v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Program: Program{Binary: "/proc/self/exe"}, Protocol: TCP, Nodes: []Node{{Name: "a"}}}
	for want, spoil := range map[string]func(*Config){
		"no node proxy is given": func(c *Config) { c.Program.Binary = "" },
		"no such file":           func(c *Config) { c.Program.Binary = "/nowhere/ztunnel" },
		"not a program":          func(c *Config) { c.Program.Binary = "testdata/inpod.nft" },
		`protocol "UDP"`:         func(c *Config) { c.Protocol = "UDP" },
		`pod p is on node "b"`:   func(c *Config) { c.Pods = []Pod{{Name: "p", Node: "b"}} },
		"node a: node proxy /proc: not a program": func(c *Config) {
			c.Nodes = []Node{{Name: "a", Program: &Program{Binary: "/proc"}}}
		},
		"/proc: not a program":    func(c *Config) { c.Program.Binary = "/proc" },
		"protocol \"\": must be ": func(c *Config) { c.Protocol = "" },
	} {
		c := good
		spoil(&c)
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}

// TestWorkloads is the file as a ztunnel reads it, which refuses unknown keys.
func TestWorkloads(t *testing.T) {
	got, err := workloads(
		[]Pod{{Name: "server", Node: "b", ServiceAccount: "srv", Address: netip.MustParseAddr("10.2.0.21")}},
		[]Service{{Name: "bench", VIP: netip.MustParseAddr("10.96.0.1"), Port: 80, Target: 8080, Pod: "server"}}, HBONE, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "workloads.yaml"))
	if os.Getenv("UPDATE_GOLDEN") != "" {
		err = os.WriteFile(filepath.Join("testdata", "workloads.yaml"), got, 0o644)
		want = got
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// TestCountersAreRead in the text form of a ztunnel (OpenMetrics).
func TestCountersAreRead(t *testing.T) {
	text := `# HELP istio_tcp_connections_opened The total number of TCP connections opened (unstable).
# TYPE istio_tcp_connections_opened counter
istio_tcp_connections_opened_total{reporter="source",source_principal="spiffe://cluster.local/ns/default/sa/client",destination_principal="spiffe://cluster.local/ns/default/sa/server",connection_security_policy="mutual_tls",dst="a \"quoted\" name"} 100
istio_tcp_connections_opened_total{reporter="destination",source_principal="spiffe://cluster.local/ns/default/sa/client",destination_principal="unknown",connection_security_policy="unknown"} 7
# EOF
`
	got, err := parseOpened([]byte(text))
	want := []Opened{
		{ReporterSource, Identity("default", "client"), Identity("default", "server"), SecurityMutual, 100},
		{ReporterDest, Identity("default", "client"), "unknown", SecurityUnknown, 7},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if none, err := parseOpened([]byte("# EOF\n")); err != nil || len(none) > 0 {
		t.Errorf("no counters: %v, %v", none, err)
	}
}

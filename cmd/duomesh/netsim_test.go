package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// cli runs commands against a run directory of the test's own.
type cli struct {
	runDir string
}

// run returns the exit code and what was written.
func (c cli) run(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func (c cli) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"netsim", "--run-dir", c.runDir}, args...)...)
	cmd.Env = append(os.Environ(), asMainEnv+"=1")
	return cmd
}

// want runs a command that must end with a code and print a text.
func (c cli) want(tb testing.TB, code int, text string, args ...string) string {
	tb.Helper()
	got, out, errs := c.run(tb, args...)
	if got != code || !strings.Contains(out+errs, text) {
		tb.Errorf("netsim %s: exit code %d, want %d with %q:\n%s%s", strings.Join(args, " "), got, code, text, out, errs)
	}
	return out
}

const sample = "../../samples/netsim/fortio.yaml"

func mustUp(tb testing.TB, args ...string) (cli, string) {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	c := cli{runDir: filepath.Join(tb.TempDir(), "run")}
	// A file, not a pipe: a background process keeps nothing of its starter's.
	id := strings.TrimSpace(c.want(tb, 0, "\n", append([]string{"up", "-f", sample, "--detach"}, args...)...))
	tb.Cleanup(func() {
		c.want(tb, 0, "", "down", "--all")
		if _, err := os.Stat(c.runDir); err == nil {
			tb.Errorf("%s is left", c.runDir)
		}
	})
	return c, id
}

func TestNetsimCommands(t *testing.T) {
	c, id := mustUp(t)
	c.want(t, 0, id, "ls")
	c.want(t, 0, "10.96.0.10", "ls", id)

	var list clusterList
	if err := json.Unmarshal([]byte(c.want(t, 0, id, "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Clusters) != 1 || len(list.Clusters[0].Nodes) != 2 || list.Schema == "" || list.Version == 0 {
		t.Fatalf("list is %+v", list)
	}
	pod, err := list.Clusters[0].Pod("client")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Readlink(pod.Netns)
	if err != nil {
		t.Fatal(err)
	}
	c.want(t, 0, ns, "exec", "client", "--", "readlink", "/proc/self/ns/net")
	c.want(t, 0, "/duomesh-"+id+"/a/client", "exec", id+"/client", "--", "cat", "/proc/self/cgroup")
	c.want(t, 7, "", "exec", "client", "--", "sh", "-c", "exit 7")
	c.want(t, 128+9, "", "exec", "client", "--", "sh", "-c", "kill -KILL $$")
	c.want(t, 127, "no-such-program", "exec", "client", "--", "no-such-program")
	c.want(t, 127, "/no/such", "exec", "client", "--", "/no/such")
	c.want(t, 126, "permission denied", "exec", "client", "--", "/etc/passwd")
	c.want(t, 1, "", "exec", "client", "--", "false")
	c.want(t, 2, `no pod "v9": there are client, v1, v2`, "exec", "v9", "--", "true")
	c.want(t, 2, "want POD -- COMMAND", "exec", "client", "true")
	c.want(t, 2, "a cluster of this name is there already", "up", "-f", sample, "--id", id)
	c.want(t, 2, "a cluster of this name is there already", "up", "-f", sample, "--id", id, "--detach")
	c.want(t, 0, "cluster "+id+" is down\n", "down", id)
}

func TestNetsimRedirectsAndApplies(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	c, _ := mustUp(t)
	ask := func() string { return c.want(t, 0, "v", "exec", "client", "--", curl, "-s", "http://10.96.0.10/") }
	if got := ask(); got != "v1\n" && got != "v2\n" {
		t.Errorf("the service answered %q", got)
	}
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	one := filepath.Join(t.TempDir(), "one.yaml")
	if err := os.WriteFile(one, bytes.Replace(data, []byte("weight: 90"), []byte("weight: 0"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	c.want(t, 0, "", "apply", "-f", one)
	for range 20 {
		if got := ask(); got != "v2\n" {
			t.Fatalf("after v1's weight became 0 the service answered %q", got)
		}
	}
	// A pod that the cluster does not have: refused, and the state stays.
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	other := bytes.ReplaceAll(data, []byte("v2"), []byte("v3"))
	if err := os.WriteFile(bad, other, 0o600); err != nil {
		t.Fatal(err)
	}
	c.want(t, 2, `no pod "v3"`, "apply", "-f", bad)
	c.want(t, 2, "waypoint waypoint: no such waypoint is declared", "apply", "-f", "../../samples/netsim/waypoint.yaml")
	if got := ask(); got != "v2\n" {
		t.Errorf("after a refused change the service answered %q", got)
	}
}

func TestNetsimForeground(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	c := cli{runDir: filepath.Join(t.TempDir(), "run")}
	cmd := c.command("up", "-f", sample, "--id", "front")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 0, 4096)
	for !bytes.Contains(said, []byte("Cluster front is up")) {
		buf := make([]byte, 1024)
		n, err := out.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil {
			t.Fatalf("up said %s%s, %v", said, errs.String(), err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGINT: %v\n%s", err, errs.String())
	}
	c.want(t, 0, "no cluster is running", "ls")
}

func TestNetsimDownAfterKill(t *testing.T) {
	c, id := mustUp(t, "--id", "cli-killed", "--pinned")
	var list clusterList
	if err := json.Unmarshal([]byte(c.want(t, 0, id, "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	owner, err := unix.PidfdOpen(list.Clusters[0].PID, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(owner)
	if err := unix.PidfdSendSignal(owner, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	// Readable: the process is dead.
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(owner), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Fatalf("the owner does not die: %v", err)
	}
	c.want(t, 0, "dead: "+id, "ls")
	c.want(t, 0, "removed what the dead cluster "+id+" left\n", "down", id)
	c.want(t, 2, "no cluster is running", "down", id)
	if _, err := os.Stat(list.Clusters[0].Cgroup); err == nil {
		t.Errorf("%s is left", list.Clusters[0].Cgroup)
	}
}

func TestNetsimUsage(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nnodes: [{name: A}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(none, []byte("version: 1\nmesh: none\nnodes: [{name: a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := cli{runDir: filepath.Join(t.TempDir(), "run")}
	c.want(t, 2, "a topology is needed", "up")
	c.want(t, 2, "no such file", "up", "-f", "nowhere.yaml")
	c.want(t, 2, `bad.yaml:2:16: node name "A" is no lower-case DNS label`, "up", "-f", bad)
	c.want(t, 2, `--id: cluster id "My_Cluster" is no lower-case DNS label`, "up", "-f", sample, "--id", "My_Cluster")
	c.want(t, 2, "--id b: it is a already", "up", "-f", sample, "--id", "a", "--id", "b")
	c.want(t, 2, `unknown command "bogus": see duomesh netsim --help`, "bogus", "--id", "a")
	c.want(t, 2, "duomesh: netsim up: unknown argument", "up", "x")
	c.want(t, 2, "duomesh: netsim up: unknown flag", "up", "--nope")
	c.want(t, 2, "unknown command", "nope")
	c.want(t, 2, "must be table or json", "ls", "-o", "xml")
	c.want(t, 2, "exclude each other", "down", "--all", "x")
	if os.Geteuid() == 0 {
		c.want(t, 2, "--istiod: there is no duomesh-agent", "up", "-f", sample, "--istiod")
		c.want(t, 2, "--istiod: mesh none asks no istiod", "up", "-f", none, "--istiod")
		c.want(t, 2, "no cluster is running", "down")
		c.want(t, 0, "no cluster is running", "ls")
	}
}

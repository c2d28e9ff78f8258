package netsim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

func TestOpenTwiceWithOneID(t *testing.T) {
	runDir := t.TempDir()
	c := mustOpen(t, Config{RunDir: runDir, ID: "one"}, twoNodes(scenario.NoMesh))
	if _, err := Open(t.Context(), Config{RunDir: runDir, ID: "one"}, twoNodes(scenario.NoMesh)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	// Another run directory, the same cgroup: still the first one's.
	if _, err := Open(t.Context(), Config{RunDir: t.TempDir(), ID: "one"}, twoNodes(scenario.NoMesh)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	wantTally(t, dial(t, c, "client", scenario.Target{Pod: "v1", Port: 8080}, 5), "v1", 5)
}

// A name that was taken first is nobody else's, and is given back.
func TestNameIsTakenFirst(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	cfg := Config{ID: "taken-first", RunDir: filepath.Join(t.TempDir(), "run")}
	name, err := Reserve(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Reserve(testContext(t), cfg); !errors.Is(err, fs.ErrExist) {
		t.Errorf("taken again: %v", err)
	}
	if _, err := Open(testContext(t), cfg, twoNodes(scenario.NoMesh)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a cluster of a name that was taken: %v", err)
	}
	with := cfg
	with.Name = name
	mustOpen(t, with, twoNodes(scenario.NoMesh))
	if err := name.Close(); err != nil {
		t.Error(err)
	}
	other := cfg
	other.RunDir = filepath.Join(t.TempDir(), "other")
	if _, err := Reserve(testContext(t), other); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "--run-dir "+cfg.RunDir) {
		t.Errorf("the name of a cluster of another run directory: %v", err)
	}
	free := Config{ID: "given-back", RunDir: cfg.RunDir}
	for range 2 {
		name, err := Reserve(testContext(t), free)
		if err != nil {
			t.Fatal(err)
		}
		if err := name.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who interrupts the start is told that, and nothing of what could then not be had.
func TestInterruptedOpen(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	runDir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancelCause(testContext(t))
	cancel(errors.New("somebody has changed his mind"))
	_, err := Open(ctx, Config{ID: "interrupted", RunDir: runDir}, twoNodes(scenario.NoMesh))
	if err == nil || err.Error() != "open cluster interrupted: somebody has changed his mind" {
		t.Errorf("got %v", err)
	}
	if left := remains(t, runDir, "interrupted"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailedOpenLeavesNothing(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	runDir := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, Config{RunDir: runDir, ID: "never"}, twoNodes(scenario.NoMesh)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if left := remains(t, runDir, "never"); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestProcess(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	var out strings.Builder
	p, err := c.Start(t.Context(), "client", Command{
		Argv: []string{"sh", "-c", "cat /proc/self/cgroup; readlink /proc/self/ns/net; exit 7"}, Stdout: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ended with %v, want exit code 7", err)
	}
	inode := new(syscall.Stat_t)
	if err := syscall.Fstat(int(c.pods["client"].netns.Fd()), inode); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/duomesh-" + c.ID() + "/a/client", fmt.Sprintf("net:[%d]", inode.Ino)} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("born outside %s:\n%s", want, out.String())
		}
	}

	in, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	deaf, err := c.Start(t.Context(), "client", Command{
		Argv: []string{"sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"}, Stdout: stdout,
	})
	stdout.Close()
	if err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		t.Fatalf("a deaf process said %q, %v", said, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	deaf.Stop(ctx)
	if err := deaf.Wait(); !strings.Contains(err.Error(), "killed") {
		t.Errorf("a deaf process ended with %v, want killed", err)
	}

	said, err := c.Start(t.Context(), "client", Command{Argv: []string{"sh", "-c", "echo why >&2; exit 1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := said.Wait(); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("got %v, want what the program said", err)
	}
	if _, err := c.Start(t.Context(), "client", Command{Argv: []string{"/no/such/program"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestTwoClustersAtOnce(t *testing.T) {
	runDir := t.TempDir()
	one := mustOpen(t, Config{RunDir: runDir}, twoNodes(scenario.Duomesh))
	two := mustOpen(t, Config{RunDir: runDir}, twoNodes(scenario.Duomesh))
	if err := one.Apply(testContext(t), canary(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := two.Apply(testContext(t), canary(0, 1)); err != nil {
		t.Fatal(err)
	}
	vip := scenario.Target{Service: "fortio", Port: 80}
	var first, second []traffic.Conn
	first, second = dial(t, one, "far", vip, 200), dial(t, two, "far", vip, 200)
	wantTally(t, first, "v1", 200)
	wantTally(t, second, "v2", 200)
	if first[0].Asked != second[0].Asked {
		t.Errorf("asked %s and %s: the clusters were to have the same address plan", first[0].Asked, second[0].Asked)
	}
}

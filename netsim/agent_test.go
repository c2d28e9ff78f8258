package netsim

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
)

// buildAgent builds the agent of these sources.
func buildAgent(tb testing.TB) string {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	exe := filepath.Join(tb.TempDir(), "duomesh-agent")
	cmd := exec.Command("go", "build", "-o", exe, "github.com/duomesh/duomesh/cmd/duomesh-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build the agent: %v\n%s", err, out)
	}
	return exe
}

func TestAgents(t *testing.T) {
	exe := buildAgent(t)
	vip := scenario.Target{Service: "fortio", Port: 80}

	t.Run("are applied to, killed and started", func(t *testing.T) {
		c := mustOpen(t, Config{Agent: exe}, twoNodes(scenario.Duomesh))
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(c.Apply(testContext(t), canary(1, 0)))
		wantTally(t, dial(t, c, "client", vip, 20), "v1", 20)
		must(c.Do(testContext(t), scenario.KillAgent{Node: "a"}))
		wantTally(t, dial(t, c, "client", vip, 20), "v1", 20)
		for what, err := range map[string]error{
			"apply":      c.Apply(testContext(t), canary(0, 1)),
			"enrol":      c.Do(testContext(t), scenario.Enrol{Pod: "stranger"}),
			"kill again": c.Do(testContext(t), scenario.KillAgent{Node: "a"}),
		} {
			if err == nil || !strings.Contains(err.Error(), "node a: ") {
				t.Errorf("%s without an agent: %v", what, err)
			}
		}
		// What was declared meanwhile is what the next agent applies.
		must(c.Do(testContext(t), scenario.StartAgent{Node: "a"}))
		wantTally(t, dial(t, c, "client", vip, 20), "v2", 20)
		if err := c.Do(testContext(t), scenario.StartAgent{Node: "a"}); err == nil {
			t.Error("a second agent was started")
		}
		must(c.Do(testContext(t), scenario.Enrol{Pod: "stranger"}))
		wantTally(t, dial(t, c, "stranger", vip, 20), "v2", 20)
		must(c.Do(testContext(t), scenario.Leave{Pod: "stranger"}))
	})

	t.Run("are named when they have ended, and started again", func(t *testing.T) {
		c := mustOpen(t, Config{Agent: exe}, twoNodes(scenario.Duomesh))
		a, err := c.agentOf("b")
		if err != nil {
			t.Fatal(err)
		}
		proc := a.proc
		if err := proc.kill(); err != nil {
			t.Fatal(err)
		}
		<-proc.done
		dir, id := filepath.Dir(c.Dir()), c.ID()
		ended, err := EndedOf(testContext(t), dir, id)
		if err != nil || !slices.Equal(ended, []string{"b"}) {
			t.Errorf("ended: %v, %v", ended, err)
		}
		for _, name := range []string{"a", "c", "istiod"} {
			var no RefusedError
			if err := ReviveOf(testContext(t), dir, id, name); !errors.As(err, &no) {
				t.Errorf("start %s: %v", name, err)
			}
		}
		if err := ReviveOf(testContext(t), dir, id); err != nil {
			t.Error(err)
		}
		if ended := c.Ended(); ended != nil {
			t.Errorf("ended after the start: %v", ended)
		}
	})

	t.Run("leave nothing", func(t *testing.T) {
		runDir := filepath.Join(t.TempDir(), "run")
		pids := openAndUse(t, Config{RunDir: runDir, ID: "agents", Agent: exe}, scenario.Duomesh)
		if left := remains(t, runDir, "agents"); left != nil {
			t.Errorf("left behind: %v", left)
		}
		wantDead(t, pids)
	})

	t.Run("say why they do not start", func(t *testing.T) {
		_, err := Open(testContext(t), Config{RunDir: t.TempDir(), Agent: "/bin/false"}, twoNodes(scenario.Duomesh))
		if err == nil || !strings.Contains(err.Error(), "its agent ended: /bin/false: exit status 1") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("cannot have what they are not told", func(t *testing.T) {
		cfg := Config{RunDir: t.TempDir(), Agent: exe, Engine: dataplane.Options{HidePeer: true}}
		if _, err := Open(testContext(t), cfg, twoNodes(scenario.Duomesh)); !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("got %v, want %v", err, scenario.ErrNotExpressible)
		}
	})
}

func TestNoAgentAtHand(t *testing.T) {
	topology := twoNodes(scenario.Duomesh)
	topology.Agents = true
	kernel.Require(t, kernel.Root)
	if _, err := Open(t.Context(), Config{RunDir: t.TempDir()}, topology); !errors.Is(err, scenario.ErrNotExpressible) {
		t.Errorf("got %v, want %v", err, scenario.ErrNotExpressible)
	}
	c := mustOpen(t, Config{}, twoNodes(scenario.Duomesh))
	if err := c.Do(t.Context(), scenario.KillAgent{Node: "a"}); !errors.Is(err, scenario.ErrNotExpressible) {
		t.Errorf("got %v, want %v", err, scenario.ErrNotExpressible)
	}
	if err := c.Do(t.Context(), scenario.KillAgent{Node: "z"}); err == nil || !strings.Contains(err.Error(), `no node "z"`) {
		t.Errorf("got %v", err)
	}
}

// TestWindow: an engine in this process answers as an agent does.
func TestWindow(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.Duomesh))
	if err := c.Apply(testContext(t), canary(1, 0)); err != nil {
		t.Fatal(err)
	}
	client := api.NewClient(*c.State().Nodes[0].Admin)
	defer client.Close()
	s, err := client.Status(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Node != "a" || s.Applied.Generation != 1 || len(s.Pods) != 1 || s.Pods[0].Name != "default/client" || s.Audit.Differences != 0 {
		t.Errorf("status is %+v", s)
	}
	if _, err := client.Status(t.Context(), "some version"); err == nil {
		t.Error("an engine without a source has seen a version of it")
	}
}

func TestRecycle(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.Duomesh))
	ctx := testContext(t)
	if err := c.Apply(ctx, canary(1, 0)); err != nil {
		t.Fatal(err)
	}
	vip := scenario.Target{Service: "fortio", Port: 80}
	wantTally(t, dial(t, c, "client", vip, 5), "v1", 5)
	before, err := c.Pod("client")
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := kernel.NetnsCookie(before.Netns)
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{"client", "v1"} { // one that asks, one that serves
		if err := c.Do(ctx, scenario.Recycle{Pod: pod}); err != nil {
			t.Fatal(err)
		}
	}
	after, err := c.Pod("client")
	if err != nil {
		t.Fatal(err)
	}
	again, err := kernel.NetnsCookie(after.Netns)
	if err != nil || again == cookie || after.IPv4 != before.IPv4 || after.Managed {
		t.Errorf("the new pod has cookie %d, was %d, address %s, managed %v: %v", again, cookie, after.IPv4, after.Managed, err)
	}
	if err := c.Do(ctx, scenario.Enrol{Pod: "client"}); err != nil {
		t.Fatal(err)
	}
	wantTally(t, dial(t, c, "client", vip, 5), "v1", 5)
	wantTally(t, dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080}, 5), "v2", 5)
}

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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
)

// ownerEnv asks the test binary to own a cluster: "RUNDIR:ID".
const ownerEnv = "DUOMESH_TEST_OWNER"

// ownCluster opens a pinned cluster with running servers, says so, and waits to
// be killed.
func ownCluster(arg string) int {
	runDir, id, _ := strings.Cut(arg, ":")
	ctx := context.Background()
	c, err := Open(ctx, Config{RunDir: runDir, ID: id, Pinned: true}, twoNodes(scenario.NoMesh))
	if err == nil {
		err = c.StartServers(ctx)
	}
	if err == nil {
		// A program that nobody stops when the owner dies.
		_, err = c.Start(ctx, "client", Command{Argv: []string{"sleep", "600"}})
	}
	if err != nil {
		fmt.Fprintln(os.Stdout, "error:", err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "open")
	select {}
}

// mustOwn starts a process that owns a cluster and returns it when that is open.
func mustOwn(tb testing.TB, runDir, id string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ownerEnv+"="+runDir+":"+id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if err := Sweep(context.Background(), runDir); err != nil {
			tb.Errorf("sweep: %v", err)
		}
	})
	said, err := bufio.NewReader(out).ReadString('\n')
	if said != "open\n" {
		tb.Fatalf("owner said %q, %v", said, err)
	}
	return cmd
}

// remains lists what a cluster has on this machine outside its namespaces.
func remains(tb testing.TB, runDir, id string) []string {
	tb.Helper()
	var found []string
	cgroup, err := cgroupOf(id)
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range []string{cgroup, filepath.Join(runDir, id)} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			found = append(found, path)
		}
	}
	mounts, err := mountsBelow(filepath.Join(runDir, id))
	if err != nil {
		tb.Fatal(err)
	}
	return append(found, mounts...)
}

// population lists the processes at and below a cgroup.
func population(tb testing.TB, dir string) []int {
	tb.Helper()
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		for _, f := range strings.Fields(string(data)) {
			pid, _ := strconv.Atoi(f)
			pids = append(pids, pid)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return pids
}

// wantDead fails for processes that still run. A zombie is dead: orphans are
// init's to bury.
func wantDead(tb testing.TB, pids []int) {
	tb.Helper()
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if _, after, _ := strings.Cut(string(stat), ") "); err != nil || !strings.HasPrefix(after, "Z") {
			tb.Errorf("process %d is left: %s %v", pid, stat, err)
		}
	}
}

func rootLinks(tb testing.TB) []string {
	tb.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}

func TestCloseLeavesNothing(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	links := rootLinks(t)
	for _, mesh := range []scenario.Mesh{scenario.NoMesh, scenario.DNAT, scenario.Duomesh} {
		t.Run(string(mesh), func(t *testing.T) {
			runDir := filepath.Join(t.TempDir(), "run")
			// Once before counting: the runtime keeps descriptors of its own.
			openAndUse(t, Config{RunDir: runDir, ID: "first"}, mesh)
			before := openFiles(t)
			pids := openAndUse(t, Config{RunDir: runDir, ID: "gone", Pinned: true}, mesh)
			if after := openFiles(t); after > before {
				t.Errorf("%d descriptors are open, %d were before", after, before)
			}
			if left := remains(t, runDir, "gone"); left != nil {
				t.Errorf("left behind: %v", left)
			}
			wantDead(t, pids)
			if _, err := os.Stat(runDir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("directory of all clusters is left: %v", err)
			}
		})
	}
	if now := rootLinks(t); !slices.Equal(now, links) {
		t.Errorf("links of the root namespace are %v, were %v", now, links)
	}
}

// openAndUse opens a cluster, lets it do everything, closes it twice, and
// returns the processes that it had.
func openAndUse(t *testing.T, cfg Config, mesh scenario.Mesh) []int {
	t.Helper()
	c := mustOpen(t, cfg, twoNodes(mesh))
	if err := c.Apply(testContext(t), canary(1, 1)); err != nil {
		t.Fatal(err)
	}
	dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080}, 10)
	// Born in the pod, in a session of its own, deaf to SIGTERM.
	script := "trap '' TERM; setsid sleep 600 & sleep 600"
	if _, err := c.Start(context.Background(), "far", Command{Argv: []string{"sh", "-c", script}}); err != nil {
		t.Fatal(err)
	}
	if left := remains(t, c.cfg.RunDir, c.ID()); len(left) < 2 {
		t.Fatalf("the check for remains sees only %v of a living cluster", left)
	}
	pids := population(t, c.cgroup)
	if len(pids) < 3 {
		t.Fatalf("the cluster has processes %v, want two servers and a program at least", pids)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Start(t.Context(), "far", Command{Argv: []string{"true"}}); err == nil {
		t.Error("a closed cluster started a process")
	}
	return pids
}

// leavings are a cgroup, a run directory and the mounts of two nodes.
const leavings = 4

// wantToSweep fails unless a dead cluster has left everything. Another process of this
// machine that opens a cluster sweeps as well, at any moment.
func wantToSweep(t *testing.T, runDir, id string) {
	t.Helper()
	if left := remains(t, runDir, id); len(left) == 0 {
		t.Log("another process of this machine has swept already")
	} else if len(left) != leavings {
		t.Logf("after SIGKILL %v is there: nothing to sweep, or another process of this machine is at it", left)
	}
}

// wantSwept fails unless nothing is left, and waits for another process that sweeps.
func wantSwept(t *testing.T, runDir, id string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); ; {
		left := remains(t, runDir, id)
		if left == nil {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the next Open left %v", left)
		}
	}
}

func TestSweepAfterKill(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	runDir := t.TempDir()
	alive := mustOpen(t, Config{RunDir: runDir, ID: "alive"}, twoNodes(scenario.NoMesh))
	owner := mustOwn(t, runDir, "dead")
	cgroup, err := cgroupOf("dead")
	if err != nil {
		t.Fatal(err)
	}
	pids := population(t, cgroup)
	if len(pids) != 3 {
		t.Fatalf("the owner's cluster has processes %v, want 3", pids)
	}

	// A living cluster is nobody's to sweep.
	if err := Sweep(t.Context(), runDir); err != nil {
		t.Fatal(err)
	}
	if left := remains(t, runDir, "dead"); len(left) != 4 {
		t.Fatalf("of a living cluster %v is there, want cgroup, run directory and two mounts", left)
	}

	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	owner.Wait() // "signal: killed"
	wantToSweep(t, runDir, "dead")
	next := mustOpen(t, Config{RunDir: runDir}, twoNodes(scenario.NoMesh))
	wantSwept(t, runDir, "dead")
	wantDead(t, pids)
	for _, c := range []*Cluster{alive, next} {
		wantTally(t, dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080}, 5), "v2", 5)
	}
}

// TestSweepOfAnotherRunDirectory: what is left of a dead cluster is found by the next one,
// whose run directory is elsewhere; living clusters, and cgroups that say nothing of
// themselves, are left alone.
func TestSweepOfAnotherRunDirectory(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	for _, c := range []struct {
		name   string
		remove func(run string) // what somebody does with the run directory meanwhile
	}{
		{"whole", func(string) {}},
		// The mounts keep the directory from going.
		{"removed as far as it can be", func(run string) { os.RemoveAll(run) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			alive := mustOpen(t, Config{Pinned: true}, twoNodes(scenario.NoMesh))
			theirs := t.TempDir()
			id := fmt.Sprintf("dead-%d", os.Getpid())
			owner := mustOwn(t, theirs, id)
			cgroup, err := cgroupOf(id)
			if err != nil {
				t.Fatal(err)
			}
			pids := population(t, cgroup)
			silent := cgroup + "-silent"
			if err := os.Mkdir(silent, 0o755); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(silent)

			// The control: as long as its owner lives, nobody sweeps it.
			if err := Sweep(t.Context(), t.TempDir()); err != nil {
				t.Fatal(err)
			}
			if left := remains(t, theirs, id); len(left) != 4 {
				t.Fatalf("of a living cluster %v is there, want cgroup, run directory and two mounts", left)
			}
			if err := owner.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			owner.Wait() // "signal: killed"
			c.remove(filepath.Join(theirs, id))
			wantToSweep(t, theirs, id)
			next := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
			wantSwept(t, theirs, id)
			wantDead(t, pids)
			if _, err := os.Stat(silent); err != nil {
				t.Errorf("a cgroup that does not say whose it is was swept: %v", err)
			}
			for _, c := range []*Cluster{alive, next} {
				wantTally(t, dial(t, c, "client", scenario.Target{Pod: "v2", Port: 8080}, 5), "v2", 5)
			}
		})
	}
}

// TestSweepOfANameTwice: a dead cluster's run directory says nothing of a living one of
// the same name elsewhere.
func TestSweepOfANameTwice(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	alive := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	theirs := t.TempDir()
	dead := filepath.Join(theirs, alive.ID())
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, mark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dead, err)
	}
	wantTally(t, dial(t, alive, "client", scenario.Target{Pod: "v2", Port: 8080}, 5), "v2", 5)
}

// TestSweepOfAClaim: an owner that was killed before its directory had a name.
func TestSweepOfAClaim(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	runDir := t.TempDir()
	claim, err := os.MkdirTemp(runDir, claimPrefix)
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(runDir, "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(t.Context(), runDir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(claim); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", claim, err)
	}
	if _, err := os.Lstat(foreign); err != nil {
		t.Errorf("somebody else's directory was swept: %v", err)
	}
}

// TestKillOneByOne is the way of kernels without cgroup.kill.
func TestKillOneByOne(t *testing.T) {
	c := mustOpen(t, Config{}, twoNodes(scenario.NoMesh))
	for _, pod := range []string{"client", "v2"} {
		if _, err := c.Start(t.Context(), pod, Command{Argv: []string{"sleep", "600"}}); err != nil {
			t.Fatal(err)
		}
	}
	pids := population(t, c.cgroup)
	if len(pids) != 2 {
		t.Fatalf("processes %v, want two", pids)
	}
	if err := killOneByOne(c.cgroup); err != nil {
		t.Fatal(err)
	}
	if err := awaitEmpty(testContext(t), c.cgroup); err != nil {
		t.Fatal(err)
	}
	wantDead(t, pids)
}

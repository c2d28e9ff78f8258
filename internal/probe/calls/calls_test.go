package calls

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

const childEnv = "DUOMESH_CALLS_TEST_CHILD"

const writes, early = 1000, 50

// TestMain is also the child: so many writes to a pipe, and reads too early.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK); err != nil {
		panic(err)
	}
	for range writes {
		if _, err := unix.Write(pipe[1], []byte{1}); err != nil {
			panic(err)
		}
	}
	if _, err := unix.Read(pipe[0], make([]byte, writes)); err != nil {
		panic(err)
	}
	for range early {
		if _, err := unix.Read(pipe[0], make([]byte, 1)); err != unix.EAGAIN {
			panic(err)
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func cgroup(t *testing.T, name string) *os.File {
	t.Helper()
	root, err := kernel.Cgroup2()
	must(t, err)
	path := filepath.Join(root, fmt.Sprintf("duomesh-calls-test-%d-%s", os.Getpid(), name))
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() { must(t, os.Remove(path)) })
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func runChild(t *testing.T, in *os.File) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"=1"), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(in.Fd())}
	must(t, cmd.Run())
}

// Each call of a counted cgroup counts once, those that came too early and those
// of other cgroups do not.
func TestCounts(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	mine, other := cgroup(t, "mine"), cgroup(t, "other")
	c, err := Open(mine)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	runChild(t, other)
	n, err := c.Counts()
	must(t, err)
	if n.Total() != 0 {
		t.Fatalf("another cgroup's calls were counted: %v", n)
	}
	runChild(t, mine)
	first, err := c.Counts()
	must(t, err)
	// The Go runtime itself reads and writes a little as it starts.
	if first["write"] < writes || first["write"] > writes+20 || first["read"] > 30 {
		t.Errorf("%v; want %d writes and a few reads", first, writes)
	}
	runChild(t, mine)
	second, err := c.Counts()
	must(t, err)
	if d := second["write"] - first["write"]; d < writes || d > writes+20 {
		t.Errorf("%d writes of a second child, want %d", d, writes)
	}
}

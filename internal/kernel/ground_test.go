package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// deadPID is the number of a process that has just ended.
func deadPID(tb testing.TB) int {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := cmd.Run(); err != nil {
		tb.Fatal(err)
	}
	return cmd.Process.Pid
}

func mustMakeCgroup(tb testing.TB, mount, name string) string {
	tb.Helper()
	dir := filepath.Join(mount, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.Remove(dir) })
	return dir
}

// Who is killed in a trial leaves a cgroup: the next one removes it, and nothing
// that lives or that is not a trial's.
func TestSweepGrounds(t *testing.T) {
	Require(t, Root, Cgroup2Mount)
	mount, err := Cgroup2()
	if err != nil {
		t.Fatal(err)
	}
	mine, err := NewGround()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	dead := deadPID(t)
	left := mustMakeCgroup(t, mount, fmt.Sprintf("%s%d-1", trialPrefix, dead))
	inUse := mustMakeCgroup(t, mount, fmt.Sprintf("%s%d-2", trialPrefix, dead))
	mustMakeCgroup(t, inUse, "below")
	locked := mustMakeCgroup(t, mount, fmt.Sprintf("%s%d-3", trialPrefix, dead))
	holder, err := os.Open(locked)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	other := mustMakeCgroup(t, mount, trialPrefix+"of-somebody")

	if err := SweepGrounds(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s of a dead process is still there: %v", left, err)
	}
	for _, dir := range []string{mine.cgroup.Name(), inUse, locked, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("swept what is not abandoned: %v", err)
		}
	}
}

// A cgroup file system that may only be read, as in a container, makes a ground
// without a cgroup: programs that need none are tried all the same, the others say
// where none could be made.
func TestGroundWhereNoCgroupCanBeMade(t *testing.T) {
	Require(t, Root, BPF)
	mount := filepath.Join(t.TempDir(), "cgroup2")
	if err := os.WriteFile(mount, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := newGround(scratchCgroup(mount))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"here": connect4("here", asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}),
	}}
	if got := tryProgram(spec, "here", g); got.Outcome != Fails || !strings.Contains(got.Reason, mount) {
		t.Errorf("%s: %s, want %s with %s", got.Outcome, got.Reason, Fails, mount)
	}
	if _, err := g.Cgroup(); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v, want it to say what it is: %v", err, unix.ENOTDIR)
	}
	none, err := newGround(nil, ErrNoCgroup2)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	if got := tryProgram(spec, "here", none); got.Outcome != Lacks || got.Reason != ErrNoCgroup2.Error() {
		t.Errorf("%s: %s, want %s", got.Outcome, got.Reason, Lacks)
	}
}

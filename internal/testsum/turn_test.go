package testsum

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain makes the test's own program one that takes turns.
func TestMain(m *testing.M) {
	if err := TakeTurn(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inTurn starts a shell that takes its turn of file and writes to out.
func inTurn(t *testing.T, file, script string, in io.Reader, out io.Writer) *exec.Cmd {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", turnArg, file, sh, "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// waits reports whether the kernel has a process wait for a lock (proc_locks(5)).
func waits(t *testing.T, pid int) bool {
	t.Helper()
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(strings.Split(string(locks), "\n"), func(line string) bool {
		f := strings.Fields(line)
		return len(f) > 5 && f[1] == "->" && f[5] == fmt.Sprint(pid)
	})
}

// TestTakeTurn: the second begins when the first has ended, whatever that has left
// running; who asks for another file waits for nobody.
func TestTakeTurn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "it's a turn")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	said := bufio.NewReader(r)
	line := func() string {
		s, err := said.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(s)
	}
	hold, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	first := inTurn(t, file, "sleep 600 >/dev/null 2>&1 & echo $!; read _; echo first ends", hold, w)
	left, err := strconv.Atoi(line())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(left, syscall.SIGKILL); err != nil {
			t.Errorf("what the first left running is gone: %v", err)
		}
	})
	second := inTurn(t, file, "echo second", nil, w)
	late := time.After(time.Minute)
	for !waits(t, second.Process.Pid) {
		select {
		case <-late:
			t.Fatal("the second does not wait")
		case <-time.Tick(time.Millisecond):
		}
	}
	other := inTurn(t, file+", another", "echo other", nil, w)
	if got := line(); got != "other" {
		t.Fatal(got)
	}
	if err := errors.Join(w.Close(), release.Close()); err != nil {
		t.Fatal(err)
	}
	if got := []string{line(), line()}; !slices.Equal(got, []string{"first ends", "second"}) {
		t.Error(got)
	}
	for _, cmd := range []*exec.Cmd{first, second, other} {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestRunInTurn: what is counted does not depend on who links when.
func TestRunInTurn(t *testing.T) {
	c := Config{Go: "go", Out: filepath.Join(t.TempDir(), "an out"), Progress: io.Discard, Timeout: time.Minute,
		Packages: []string{"./testdata/plain", "./testdata/broken"}}
	alone, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	taken := filepath.Join(t.TempDir(), "taken")
	c.Turn = filepath.Join(t.TempDir(), "turn")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>'%s'\nexec '%s' \"$@\"\n", taken, self)
	if err := os.WriteFile(c.Turn, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	together, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	turns, err := os.ReadFile(taken)
	if err != nil || strings.Count(string(turns), "-turn ") != 2 || strings.Count(string(turns), " -test.timeout=1m0s\n") != 2 {
		t.Errorf("turns taken, each by tests that may take a minute: %q, %v", turns, err)
	}
	if left, err := filepath.Glob(filepath.Join(c.Out, "turn*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	names := func(cases []Case) (all []string) {
		for _, k := range cases {
			all = append(all, fmt.Sprint(k.Package, " ", k.Name, " ", k.Outcome, " ", k.Reason))
		}
		slices.Sort(all)
		return all
	}
	if diff := cmp.Diff(names(alone), names(together)); diff != "" || len(alone) == 0 {
		t.Errorf("one by one and in turn (-alone +together):\n%s", diff)
	}
}

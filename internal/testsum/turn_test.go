package testsum

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// TestTakeTurn: the second begins when the first has ended, not when it may; who asks
// for another file waits for nobody.
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
	first := inTurn(t, file, "echo first began; read _; echo first ends", hold, w)
	if got := line(); got != "first began" {
		t.Fatal(got)
	}
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
	if err := release.Close(); err != nil {
		t.Fatal(err)
	}
	if got := []string{line(), line()}; !slices.Equal(got, []string{"first ends", "second"}) {
		t.Error(got)
	}
	for _, cmd := range []*exec.Cmd{second, other} {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	_ = first.Wait() // read met the end
}

// TestRunInTurn: what is counted does not depend on who links when.
func TestRunInTurn(t *testing.T) {
	c := Config{Go: "go", Out: filepath.Join(t.TempDir(), "an out"), Progress: io.Discard, Timeout: time.Minute,
		Packages: []string{"./testdata/plain", "./testdata/broken"}}
	alone, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if c.Turn, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	together, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.Out, "turn")); err != nil {
		t.Errorf("no turn was taken: %v", err)
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

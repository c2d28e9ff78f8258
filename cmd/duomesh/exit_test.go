package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/kernel"
)

// duomesh is the command as users run it.
func duomesh(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asMainEnv+"=1")
	return cmd
}

// wantExit runs a command that must end with a code and say a text.
func wantExit(t *testing.T, code int, text string, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(string(out), text) {
		t.Errorf("%s: exit code %d, want %d with %q:\n%s", strings.Join(cmd.Args[1:], " "), got, code, text, out)
	}
}

// Exit code 1 is a verdict: what is not there, or cannot be written, is 2.
func TestUsageIsNoVerdict(t *testing.T) {
	wantExit(t, 2, "duomesh: verify: --repeat x: want a whole number", duomesh(t, "verify", "--repeat", "x"))
	wantExit(t, 2, `duomesh: unknown command "bogus": see duomesh dump --help`, duomesh(t, "dump", "bogus", "--cluster", "x"))
	wantExit(t, 2, "duomesh: dump: unknown flag: --cluster: see duomesh dump --help", duomesh(t, "dump", "--cluster", "x"))
	wantExit(t, 2, "duomesh: bench compare: two run", duomesh(t, "bench", "compare"))
	wantExit(t, 2, "/nope", duomesh(t, "bench", "compare", "/nope"))
	wantExit(t, 2, "/nope", duomesh(t, "bench", "report", "/nope"))
	wantExit(t, 2, "/nope", duomesh(t, "bench", "resume", "/nope"))
	wantExit(t, 2, "--evidence", duomesh(t, "verify", "pod-ip/direct/500", "--evidence", "/dev/null/x"))
	noEnvoy := duomesh(t, "verify", "l7/header/200")
	noEnvoy.Env = append(noEnvoy.Env, "ENVOY_BIN=/nonexistent")
	wantExit(t, 2, "ENVOY_BIN: ", noEnvoy)
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: root is needed for the rest")
	}
	wantExit(t, 2, "--netns /etc/passwd", duomesh(t, "probe", "--timeout", "1ns", "--netns", "/etc/passwd"))
	wantExit(t, 2, "--cgroup /etc: this is no directory of cgroup v2", duomesh(t, "probe", "--timeout", "1ns", "--cgroup", "/etc"))
	run, err := record.Create(t.TempDir(), result.Head{Started: record.Started(), Plan: plan.Plan{Variants: []plan.Variant{plan.Direct}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	wantExit(t, 2, "go on with "+run.Path()+": ", duomesh(t, "bench", "resume", run.Path()))
	wantExit(t, 2, "--ready-file", duomesh(t, "probe", "--timeout", "1ns", "--ready-file", "/nope/x"))
}

// A typing error makes no directory outside of the working directory.
func TestJUnitMakesNoStrangeDirectory(t *testing.T) {
	there := filepath.Join(t.TempDir(), "nope")
	if _, err := openJUnit(filepath.Join(there, "x.xml")); err == nil || exitCode(err) != 2 {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(there); err == nil {
		t.Errorf("%s was made", there)
	}
	t.Chdir(t.TempDir())
	f, err := openJUnit("out/test/x.xml")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestLostOutputIsSaid(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	defer full.Close()
	for _, args := range [][]string{{"verify", "--list"}, {"netsim", "ls", "--run-dir", t.TempDir()}, {"--help"}} {
		cmd := duomesh(t, args...)
		cmd.Stdout = full
		var said strings.Builder
		cmd.Stderr = &said
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(said.String(), syscall.ENOSPC.Error()) {
			t.Errorf("%v: %v\n%s", args, err, said.String())
		}
	}
}

func TestVerifyList(t *testing.T) {
	wantExit(t, 0, `{"name":"pod-ip/direct/500","summary":`, duomesh(t, "verify", "--list", "-o", "json"))
	wantExit(t, 2, "unknown scenario nosuch", duomesh(t, "verify", "--list", "nosuch"))
	wantExit(t, 2, "must be table or json", duomesh(t, "verify", "--list", "-o", "xml"))
}

func TestIstiodFlagTakesNoValue(t *testing.T) {
	wantExit(t, 0, "--istiod      give the cluster", duomesh(t, "netsim", "up", "--help"))
}

// A file that never ends does not hold the command.
func TestSignalEndsReading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "-f", path}, {"netsim", "up", "-f", path}} {
		cmd := duomesh(t, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for the reader
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // the code says it
		w.Close()
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
	}
}

// What a mount keeps from being tried is no lack of the kernel.
func TestReadOnlyMachineIsNoLackOfTheKernel(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF)
	trial := func(err error) kernel.Feature {
		return kernel.Feature{Name: "warp", Probe: func() error { return fmt.Errorf("make a cgroup for a trial: %w", err) }}
	}
	for err, want := range map[error]string{
		unix.EROFS:  "this machine does not let warp be tried: ",
		unix.ENOSYS: "this kernel lacks warp: ",
	} {
		if got := requireHost(trial(err)); got == nil || !strings.HasPrefix(got.Error(), want) {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

// A time limit that is over before it begins is bad input, whatever the command.
func TestTimeLimits(t *testing.T) {
	for _, line := range []string{
		"install", "uninstall", "enroll namespace x", "unenroll namespace x", "waypoint apply", "waypoint delete", "waypoint list",
		"waypoint status x", "waypoint config x", "waypoint stats",
	} {
		for _, limit := range []string{"0", "0s", "-1s", "5", "soon"} {
			want := "--timeout " + limit + ": want a duration above 0, such as 30s or 5m"
			wantExit(t, 2, want, duomesh(t, append(strings.Fields(line), "--timeout="+limit)...))
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// olderEnv names the kernel of those that are played on which the command runs.
const olderEnv = "DUOMESH_AGENT_TEST_OLDER"

// playedKernels are what kernels know, by the first of each kind that they do not
// (include/uapi/linux/bpf.h of each; of 5.13 BPF_TOKEN_CREATE, the bloom filter, the hook of
// sk_reuseport and bpf_sys_bpf). Which program may call which helper, and what their
// verifiers cannot, is not played.
var playedKernels = map[string]played{
	"without BPF": {answer: unix.ENOSYS},
	"5.6":         {answer: unix.EINVAL, commands: unix.BPF_LINK_CREATE, maps: 27, hooks: 26, helpers: 119},
	"5.8":         {answer: unix.EINVAL, commands: unix.BPF_LINK_DETACH, maps: 28, hooks: 34, helpers: 136},
	"5.13":        {answer: unix.EINVAL, commands: 36, maps: 30, hooks: 39, helpers: 166, noCookies: true},
	"this one":    {answer: unix.EINVAL, commands: 1000, maps: 1000, hooks: 1000, helpers: 1000},
}

// playOlder plays the kernel that the environment names; none where it names none.
func playOlder(name string) error {
	if name == "" {
		return nil
	}
	k, known := playedKernels[name]
	if !known {
		return fmt.Errorf("no kernel %q is played", name)
	}
	return k.play()
}

// TestUnsupportedKernel: an agent whose kernel cannot carry the engine says at its end, in
// one line, which node, which kernel and what that lacks, and leaves nothing behind.
func TestUnsupportedKernel(t *testing.T) {
	n := newGround(t)
	intent := filepath.Join(n.dir, "intent.yaml")
	must(t, os.WriteFile(intent, []byte("version: 1\n"), 0o600))
	for name, want := range map[string][]string{
		"without BPF": {"it has no BPF: ", "this kernel has no bpf system call"},
		"5.6":         {"it has no cgroup connect, which Linux has since 5.7: ", "invalid argument"},
		"5.8":         {"it has no cgroup sock_release, which Linux has since 5.9: ", "invalid argument"},
		"5.13":        {"it has no netns cookie, which Linux has since 5.14: ", "SO_NETNS_COOKIE"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // one that does not fail serves
			defer cancel()
			cmd := exec.CommandContext(ctx, "/proc/self/exe", "--source", "file:"+intent, "--cgroup", n.cgroup, "--bpffs", n.bpffs,
				"--enrol-socket", filepath.Join(n.dir, "enrol.sock"), "--node", "worker-1", "--metrics", "", "--admin", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), asMainEnv+"=1", olderEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFail {
				t.Fatalf("it ended with %v: %s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := lines[len(lines)-1]
			for _, want := range append(want, "duomesh-agent: node worker-1: open engine: Linux "+release(t)+" cannot carry the engine: ") {
				if !strings.Contains(last, want) {
					t.Errorf("it does not say %q in its last line:\n%s", want, out)
				}
			}
			if i := slices.IndexFunc(lines[:len(lines)-1], func(l string) bool { return !strings.Contains(l, "level=WARN") }); i >= 0 {
				t.Errorf("before that it says %q", lines[i])
			}
			if _, err := os.Stat(filepath.Join(n.bpffs, "duomesh")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it has left its pins: %v", err)
			}
		})
	}
	t.Run("the control: all that there is", func(t *testing.T) {
		t.Setenv(olderEnv, "this one")
		newGround(t).start("--source", "file:"+intent)
	})
}

// release is what uname -r says.
func release(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	must(t, unix.Uname(&name))
	return unix.ByteSliceToString(name.Release[:])
}

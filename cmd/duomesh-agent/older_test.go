package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// olderEnv makes the command one that runs on an older kernel: commands of bpf(2) from
// this number on are unknown to it.
const olderEnv = "DUOMESH_AGENT_TEST_OLDER"

// The kernels that are played, by the first command that they do not know
// (linux/bpf.h), and what each of them says of it.
const (
	before57 = unix.BPF_LINK_CREATE // no links of programs to cgroups
	noBPF    = unix.BPF_MAP_CREATE  // CONFIG_BPF_SYSCALL is not set
)

// playOlder plays the kernel that the environment names; none where it names none.
func playOlder(first string) error {
	if first == "" {
		return nil
	}
	n, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return err
	}
	return older(uint32(n))
}

// older has this process's kernel answer as one that does not know commands of bpf(2)
// from first on: EINVAL, or ENOSYS where it knows none. It lasts as long as the process.
func older(first uint32) error {
	answer := uint32(unix.EINVAL)
	if first == noBPF {
		answer = uint32(unix.ENOSYS)
	}
	const number, argument = 0, 16 // offsets in struct seccomp_data, of little-endian words
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: argument},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: first, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | answer},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("play an older kernel: %w", errno)
	}
	return nil
}

// TestUnsupportedKernel: an agent whose kernel cannot carry the engine says at its end, in
// one line, which node, which kernel and what that lacks, and leaves nothing behind.
func TestUnsupportedKernel(t *testing.T) {
	n := newGround(t)
	intent := filepath.Join(n.dir, "intent.yaml")
	must(t, os.WriteFile(intent, []byte("version: 1\n"), 0o600))
	for name, c := range map[string]struct {
		first uint32
		want  []string
	}{
		"before 5.7":  {before57, []string{"it has no cgroup connect, which Linux has since 5.7", "bpf_link not supported"}},
		"without BPF": {noBPF, []string{"it has no BPF: ", "this kernel has no bpf system call"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "--source", "file:"+intent, "--cgroup", n.cgroup, "--bpffs", n.bpffs,
				"--enrol-socket", filepath.Join(n.dir, "enrol.sock"), "--node", "worker-1", "--metrics", "", "--admin", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), asMainEnv+"=1", fmt.Sprintf("%s=%d", olderEnv, c.first))
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFail {
				t.Fatalf("it ended with %v: %s", err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := lines[len(lines)-1]
			for _, want := range append(c.want, "duomesh-agent: node worker-1: open engine: Linux "+release(t)+" cannot carry the engine: ") {
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
	t.Run("the control: every command that there is", func(t *testing.T) {
		t.Setenv(olderEnv, "1000")
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

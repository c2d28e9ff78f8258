package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// readOnly is argv[0] of a child that runs the command in the root of its first argument,
// where nothing can be written but below the others.
const readOnly = "duomesh-waypoint-read-only"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != readOnly {
		os.Exit(m.Run())
	}
	if err := lockRoot(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "lock the root:", err)
		os.Exit(exitFail)
	}
	env := pod()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	os.Exit(run(ctx, istiodArgs, func(name string) string { return env[name] }, nil, os.Stdout, os.Stdout))
}

// lockRoot makes root this process's, as kubelet does with readOnlyRootFilesystem.
func lockRoot(root string, writable []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("root", root, "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, dir := range writable {
		at := filepath.Join(root, dir)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("mount", at, "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return os.Chdir("/")
}

// inReadOnlyRoot returns what the command says there.
func inReadOnlyRoot(t *testing.T, writable ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root for a mount namespace of its own")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Args = append([]string{readOnly, t.TempDir()}, writable...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, _ := cmd.CombinedOutput() // it fails for want of an Envoy
	return string(out)
}

// With a read-only root it uses what istiod's template mounts, and says so where there
// is nothing.
func TestReadOnlyRoot(t *testing.T) {
	const went = "/nowhere/envoy is no program"
	if said := inReadOnlyRoot(t, "/etc/istio/proxy", "/var/lib/istio/data"); !strings.Contains(said, went) {
		t.Errorf("with the mounts of istiod's template: %s", said)
	}
	said := inReadOnlyRoot(t)
	if strings.Contains(said, went) || !strings.Contains(said, "make a directory for sockets (--dir names one)") {
		t.Errorf("where nothing is writable: %s", said)
	}
}

package l7_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/l7/envoy"
)

// apart is argv[0] of the process in which the tests run: in a network namespace of its
// own, where every port is free and no other test is met.
const apart = "duomesh-l7-test"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != apart && os.Geteuid() == 0 {
		os.Exit(inOwnNamespace())
	}
	if os.Geteuid() == 0 {
		if err := up(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func inOwnNamespace() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{apart}, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func up() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// envoyPath is where the Envoy of this machine is: ENVOY_BIN, or the one that make tools
// has put into the cache.
func envoyPath(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root for a network namespace of its own")
	}
	path := envoy.Find(os.Getenv("ENVOY_BIN"))
	if path == "" {
		t.Skip("NOT RUN: no Envoy (make tools)")
	}
	return path
}

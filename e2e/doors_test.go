package e2e

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
)

// enrolSocketOf is the enrolment socket of the node whose pins are given.
func enrolSocketOf(pins string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(pins))), "enrol.sock")
}

// doors are the ways into the agent and out of the pod's cgroup and namespace;
// each returns why it is shut.
func doors(pins string) map[string]func() error {
	socket := enrolSocketOf(pins)
	return map[string]func() error{
		"list pods at the enrolment socket": func() error {
			_, err := api.List(context.Background(), socket)
			return err
		},
		"replace the enrolment socket": func() error { return os.Remove(socket) },
		"read the kept enrolments": func() error {
			_, err := os.ReadFile(filepath.Join(filepath.Dir(socket), "enrolled.json"))
			return err
		},
		"reach the admin API from the pod": func() error {
			return connectTo(netip.MustParseAddrPort(api.AdminAddress))
		},
		"move to another cgroup": func() error {
			root, err := kernel.Cgroup2()
			if err != nil {
				return nil // there is one: the spec would see it
			}
			return os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte("0"), 0)
		},
		"enter another network namespace": func() error {
			ns, err := os.Open("/proc/1/ns/net")
			if err != nil {
				return err
			}
			defer ns.Close()
			return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		},
	}
}

// connectTo makes one TCP connection on this thread.
func connectTo(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
}

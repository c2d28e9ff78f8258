// Package handoff has what both ends of a hand-off agree on: how a waypoint learns
// where a connection was going before the engine brought it there. The engine
// answers SO_ORIGINAL_DST on the waypoint's accepted sockets, before accept()
// returns them.
package handoff

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The hand-off ports of a waypoint, one for each codec of intent.
const (
	PortKmeshTLV    = 15019
	PortOriginalDst = 15029
	PortProxyV2     = 15039
)

// Version is that of the option in the SYN and of what is answered. The engine
// and the waypoint must have the same.
const Version = 1

// VersionLevel and VersionOption are a getsockopt that no kernel knows. On any TCP
// socket of a waypoint's cgroup the engine answers it with its Version, 4 bytes in
// the machine's order.
const (
	VersionLevel  = unix.SOL_IP
	VersionOption = 0x646d
)

// ErrNotServed says that no engine serves this process's cgroup: nobody would
// answer for an accepted connection.
var ErrNotServed = errors.New("no engine serves the hand-off for this cgroup")

// InstalledVersion asks the engine of this process's cgroup for its version. The
// error is ErrNotServed when there is none.
func InstalledVersion() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return 0, fmt.Errorf("ask for the hand-off's version: socket: %w", err)
	}
	defer unix.Close(fd)
	v, err := unix.GetsockoptInt(fd, VersionLevel, VersionOption)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EOPNOTSUPP):
		return 0, ErrNotServed
	case err != nil:
		return 0, fmt.Errorf("ask for the hand-off's version: %w", err)
	}
	return v, nil
}

// Ready is nil when the engine of this process's cgroup serves the hand-off in the
// version of this build.
func Ready() error {
	v, err := InstalledVersion()
	if err != nil {
		return err
	}
	if v != Version {
		return fmt.Errorf("the node's engine hands off in version %d, this waypoint knows %d", v, Version)
	}
	return nil
}

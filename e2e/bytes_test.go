package e2e

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

func nativeU32(b []byte) uint32       { return binary.NativeEndian.Uint32(b) }
func nativeU64(b []byte) uint64       { return binary.NativeEndian.Uint64(b) }
func putNativeU64(b []byte, v uint64) { binary.NativeEndian.PutUint64(b, v) }
func putNativeU32(b []byte, v uint32) { binary.NativeEndian.PutUint32(b, v) }

// dialOnce makes one TCP connection attempt by system calls, on this thread.
func dialOnce(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_ = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	return nil
}

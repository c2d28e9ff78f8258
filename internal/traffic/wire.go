package traffic

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// What goes over one raw connection: the client sends an 8-byte ID, a 4-byte
// payload length (both big-endian) and the payload; the server answers with one
// byte of name length, its name, and the payload again. Then the client resets
// the connection, so that neither end keeps it in TIME_WAIT.

// MaxBytes is the largest payload of one connection: both ends hold it whole.
const MaxBytes = 1 << 20

// MaxID is the largest ID: the first byte of a raw connection is always 0, by
// which the server tells it from an HTTP request.
const MaxID = 1<<56 - 1

const headerLen = 12

// MaxDatagram is the largest payload of one datagram: with headers, it fits into
// the smallest MTU of IPv6.
const MaxDatagram = 1024

// lastDatagram is set in the length of a socket's last datagram: the server then
// reports the socket.
const lastDatagram = 1 << 31

func putHeader(b []byte, id uint64, payload int) {
	binary.BigEndian.PutUint64(b, id)
	binary.BigEndian.PutUint32(b[8:], uint32(payload))
}

func header(b []byte) (id uint64, payload int) {
	return binary.BigEndian.Uint64(b), int(binary.BigEndian.Uint32(b[8:]))
}

// fill makes the payload of a connection: bytes that differ from one ID to the
// next, so that an echo of another connection is seen.
func fill(b []byte, id uint64) {
	for i := range b {
		b[i] = byte(id) + byte(i)
	}
}

// errnoName returns the name of the errno in err, for example "ECONNREFUSED",
// or the error's text when it holds none.
func errnoName(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		if name := unix.ErrnoName(no); name != "" {
			return name
		}
	}
	return err.Error()
}

// Monotonic returns CLOCK_MONOTONIC in nanoseconds, the clock of kernel probes.
func Monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // only an unknown clock or a bad pointer can fail
	}
	return t.Nano()
}

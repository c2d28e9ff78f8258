// Package wire looks at the packets of one link: how many have which TCP port, and
// how many carry a given string. It is for short passes beside the timed one, and
// says what it lost.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Counts is what was seen.
type Counts struct {
	// Ports counts TCP packets over IPv4 by port: each once for its source and
	// once for its destination.
	Ports map[uint16]uint64
	// Marked is how many packets hold the string.
	Marked uint64
	// Lost is how many packets the kernel could not hand over.
	Lost uint64
}

// Tap is an eye on one link.
type Tap struct {
	file   *os.File
	mark   []byte
	counts Counts
	done   chan error
}

const (
	// buffer holds what arrives while the reader sleeps.
	buffer  = 64 << 20
	maxSize = 64 << 10
)

// Open begins to look at a link, both directions, by its index in a namespace
// that stays the caller's. The caller closes the tap.
func Open(ns *os.File, ifindex int, mark []byte) (*Tap, error) {
	fd := -1
	err := kernel.InNetns(ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(network(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_ALL), Ifindex: ifindex}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at link %d: %w", ifindex, err), unix.Close(fd))
	}
	t := &Tap{file: os.NewFile(uintptr(fd), "packet socket"), mark: mark, counts: Counts{Ports: map[uint16]uint64{}}, done: make(chan error, 1)}
	go func() { t.done <- t.read() }()
	return t, nil
}

// network puts a protocol number in network byte order.
func network(p uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))
}

func (t *Tap) read() error {
	b := make([]byte, maxSize)
	for {
		n, err := t.file.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read packets: %w", err)
		}
		t.counts.add(b[:n], t.mark)
	}
}

// drain is how long Close reads on what is in the buffer already.
const drain = 100 * time.Millisecond

// Close ends the look and says what was seen.
func (t *Tap) Close() (Counts, error) {
	err := t.file.SetReadDeadline(time.Now().Add(drain))
	if err != nil { // cannot end the reader: closing does
		return Counts{}, errors.Join(err, t.file.Close())
	}
	err = <-t.done
	raw, e := t.file.SyscallConn()
	if e == nil {
		e = raw.Control(func(fd uintptr) {
			var s *unix.TpacketStats
			if s, e = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); e == nil {
				t.counts.Lost = uint64(s.Drops)
			}
		})
	}
	return t.counts, errors.Join(err, e, t.file.Close())
}

// add takes one packet without its link header: IPv4 (RFC 791) with TCP.
func (c *Counts) add(b, mark []byte) {
	if len(mark) > 0 && bytes.Contains(b, mark) {
		c.Marked++
	}
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_TCP {
		return
	}
	header := int(b[0]&0xf) * 4
	if len(b) < header+4 {
		return
	}
	c.Ports[binary.BigEndian.Uint16(b[header:])]++
	c.Ports[binary.BigEndian.Uint16(b[header+2:])]++
}

package wire

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// packet is an IPv4 packet with a TCP header that has ports and nothing else.
func packet(options int, source, destination uint16, payload string) []byte {
	b := make([]byte, 20+options+20)
	b[0], b[9] = 4<<4|byte(5+options/4), unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(b[20+options:], source)
	binary.BigEndian.PutUint16(b[20+options+2:], destination)
	return append(b, payload...)
}

func TestPacketsAreCounted(t *testing.T) {
	c := Counts{Ports: map[uint16]uint64{}}
	udp := packet(0, 53, 53, "mark")
	udp[9] = unix.IPPROTO_UDP
	for _, b := range [][]byte{
		packet(0, 1000, 80, "with a mark in it"), packet(8, 80, 1000, ""), udp,
		{}, {0x45}, packet(0, 1, 2, "")[:21], {0x60, 0, 0},
	} {
		c.add(b, []byte("mark"))
	}
	if c.Marked != 2 || c.Ports[80] != 2 || c.Ports[1000] != 2 || len(c.Ports) != 2 {
		t.Errorf("%+v", c)
	}
}

// TestTapSeesALink: a request over lo of a namespace of its own, and its mark.
func TestTapSeesALink(t *testing.T) {
	kernel.Require(t, kernel.Root)
	ns, err := kernel.NewNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var there, here net.Conn
	tap := open(t, ns)
	err = kernel.InNetns(ns, func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:8080")
		if err != nil {
			return err
		}
		defer l.Close()
		if here, err = net.Dial("tcp4", "127.0.0.1:8080"); err != nil {
			return err
		}
		there, err = l.Accept()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	defer there.Close()
	if _, err := io.WriteString(here, "a marked request"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(there, make([]byte, len("a marked request"))); err != nil {
		t.Fatal(err)
	}
	c, err := tap.Close()
	if err != nil || c.Lost > 0 || c.Marked == 0 || c.Ports[8080] < 4 {
		t.Errorf("%+v, %v", c, err)
	}
}

func open(t *testing.T, ns *os.File) *Tap {
	t.Helper()
	const lo = 1
	err := kernel.InNetns(ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	tap, err := Open(ns, lo, []byte("marked"))
	if err != nil {
		t.Fatal(err)
	}
	return tap
}

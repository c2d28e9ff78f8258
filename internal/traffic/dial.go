package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The deadlines of one connection. A connection that meets one is reported as
// ETIMEDOUT with the call that waited.
const (
	connectTimeout = 5 * time.Second
	answerTimeout  = 10 * time.Second
)

// dialer makes connections one after the other; it is one worker's.
type dialer struct {
	load Load
	send []byte
	recv []byte
}

func newDialer(l Load) *dialer {
	return &dialer{
		load: l,
		send: make([]byte, headerLen+l.Bytes),
		recv: make([]byte, 256+l.Bytes),
	}
}

// connection makes one connection from its first system call to its last.
func (d *dialer) connection(id uint64) Conn {
	c := Conn{Role: Client, ID: id, Asked: d.load.To}
	if err := d.run(&c); err != nil {
		c.Errno = errnoName(err)
	}
	c.End = Monotonic()
	return c
}

// run fills c; on error c.Op says which call failed.
func (d *dialer) run(c *Conn) error {
	c.Op, c.Start = "socket", Monotonic()
	fd, err := unix.Socket(family(d.load.To.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := d.prepare(fd, c); err != nil {
		return err
	}
	c.Op, c.Start = "connect", Monotonic()
	err = connect(fd, sockaddr(d.load.To))
	if err != nil {
		return err
	}
	c.Connected = Monotonic()
	if err := ends(fd, c); err != nil {
		return err
	}
	talk := d.exchange
	if d.load.ServerFirst {
		talk = d.answer
	}
	if err := talk(fd, c); err != nil {
		return err
	}
	c.Op = ""
	return nil
}

// prepare sets what must be set before connect: deadlines, the reset at close,
// the local address; and reads the cookie.
func (d *dialer) prepare(fd int, c *Conn) error {
	c.Op = "setsockopt"
	snd, rcv := unix.NsecToTimeval(int64(connectTimeout)), unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &snd); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &rcv); err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	c.Cookie = cookie
	if !d.load.Bind.IsValid() {
		return nil
	}
	c.Op = "bind"
	return unix.Bind(fd, sockaddr(d.load.Bind))
}

// ends reads both addresses of a connected socket.
func ends(fd int, c *Conn) error {
	c.Op = "getsockname"
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	c.Local = addrPort(local)
	c.Op = "getpeername"
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	c.Peer = addrPort(peer)
	return nil
}

var errEcho = fmt.Errorf("the answer is not the payload that was sent: %w", unix.EBADMSG)

// exchange sends the payload and reads the server's answer.
func (d *dialer) exchange(fd int, c *Conn) error {
	c.Op = "write"
	payload := d.send[headerLen:]
	putHeader(d.send, c.ID, len(payload))
	fill(payload, c.ID)
	if err := writeAll(fd, d.send); err != nil {
		return err
	}
	c.Sent = int64(len(payload))
	c.Op = "read"
	n, err := readAtLeast(fd, d.recv[:1], d.recv)
	if err != nil {
		return err
	}
	name := int(d.recv[0])
	whole := 1 + name + len(payload)
	if whole > n {
		if _, err := readAtLeast(fd, d.recv[n:whole], d.recv[n:whole]); err != nil {
			return err
		}
	}
	c.Server = string(d.recv[1 : 1+name])
	if !bytes.Equal(d.recv[1+name:whole], payload) {
		return errEcho
	}
	c.Received = int64(len(payload))
	return nil
}

// answer reads the server's name before it sends the payload, which then comes back
// alone.
func (d *dialer) answer(fd int, c *Conn) error {
	c.Op = "read"
	if _, err := readAtLeast(fd, d.recv[:1], d.recv[:1]); err != nil {
		return err
	}
	name := d.recv[1 : 1+int(d.recv[0])]
	if _, err := readAtLeast(fd, name, name); err != nil {
		return err
	}
	c.Server = string(name)
	c.Op = "write"
	payload := d.send[headerLen:]
	putHeader(d.send, c.ID, len(payload))
	fill(payload, c.ID)
	if err := writeAll(fd, d.send); err != nil {
		return err
	}
	c.Sent = int64(len(payload))
	c.Op = "read"
	back := d.recv[:len(payload)]
	if _, err := readAtLeast(fd, back, back); err != nil {
		return err
	}
	if !bytes.Equal(back, payload) {
		return errEcho
	}
	c.Received = int64(len(payload))
	return nil
}

// readAtLeast fills at least need, the beginning of room, and at most room.
func readAtLeast(fd int, need, room []byte) (int, error) {
	n := 0
	for n < len(need) {
		got, err := unix.Read(fd, room[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return n, unix.ETIMEDOUT
		case err != nil:
			return n, err
		case got == 0:
			return n, io.ErrUnexpectedEOF
		}
		n += got
	}
	return n, nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return unix.ETIMEDOUT
		case err != nil:
			return err
		}
		b = b[n:]
	}
	return nil
}

// connect is connect(2) with SO_SNDTIMEO as its deadline. A signal does not
// end the attempt, it goes on in the kernel (connect(2), EINTR): wait for it.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	switch {
	case errors.Is(err, unix.EINPROGRESS): // the deadline passed
		return unix.ETIMEDOUT
	case errors.Is(err, unix.EINTR):
		return finish(fd)
	}
	return err
}

// finish waits for an interrupted connect.
func finish(fd int) error {
	deadline := time.Now().Add(connectTimeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) || (err == nil && n == 0) {
			continue
		}
		if err != nil {
			return err
		}
		no, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && no != 0 {
			err = unix.Errno(no)
		}
		return err
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

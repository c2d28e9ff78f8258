package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// socket makes one UDP socket's exchanges, from its first system call to its last.
func (d *dialer) socket(id uint64) Conn {
	c := Conn{Role: Client, ID: id, Asked: d.load.To}
	if err := d.datagrams(&c); err != nil {
		c.Errno = errnoName(err)
	}
	c.End = Monotonic()
	return c
}

// datagrams fills c; on error c.Op says which call failed.
func (d *dialer) datagrams(c *Conn) error {
	c.Op, c.Start = "socket", Monotonic()
	fd, err := unix.Socket(family(d.load.To.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := d.prepareUDP(fd, c); err != nil {
		return err
	}
	to := sockaddr(d.load.To)
	if !d.load.Unconnected {
		c.Op, c.Start = "connect", Monotonic()
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		c.Connected = Monotonic()
		if err := ends(fd, c); err != nil {
			return err
		}
		to = nil
	}
	n := max(d.load.Datagrams, 1)
	for i := range n {
		if err := d.exchangeUDP(fd, to, c, i == n-1); err != nil {
			return err
		}
	}
	c.Op = ""
	return nil
}

// prepareUDP sets the deadline of answers, asks for where they came to, and reads
// the cookie.
func (d *dialer) prepareUDP(fd int, c *Conn) error {
	c.Op = "setsockopt"
	wait := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	if err := wantPacketInfo(fd, d.load.To.Addr().Is4()); err != nil {
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

// wantPacketInfo asks for the destination of each datagram (ip(7), ipv6(7)).
func wantPacketInfo(fd int, is4 bool) error {
	if is4 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// errMoved: the socket is in the middle of a conversation that another server
// knows nothing of.
var errMoved = fmt.Errorf("another server answers on the same socket: %w", unix.EXDEV)

// exchangeUDP sends one datagram, to nil on a connected socket, and waits for its
// answer.
func (d *dialer) exchangeUDP(fd int, to unix.Sockaddr, c *Conn, last bool) error {
	payload := d.send[headerLen:]
	size := len(payload)
	if last {
		size |= lastDatagram
	}
	putHeader(d.send, c.ID, size)
	fill(payload, c.ID)
	c.Op = "sendto"
	if err := again(func() error { return sendUDP(fd, d.send, to) }); err != nil {
		return err
	}
	if c.Connected == 0 {
		c.Connected = Monotonic()
	}
	c.Datagrams++
	c.Sent += int64(len(payload))
	c.Op = "recvfrom"
	name, err := d.answerUDP(fd, c, payload)
	if err != nil {
		return err
	}
	if c.Server != "" && c.Server != name {
		return errMoved
	}
	c.Server = name
	c.Received += int64(len(payload))
	return nil
}

func sendUDP(fd int, b []byte, to unix.Sockaddr) error {
	if to == nil {
		_, err := unix.Write(fd, b)
		return err
	}
	return unix.Sendto(fd, b, 0, to)
}

// answerUDP reads one answer and returns the name of who gave it.
func (d *dialer) answerUDP(fd int, c *Conn, payload []byte) (string, error) {
	var n, oobn int
	var from unix.Sockaddr
	var oob [64]byte
	err := again(func() (err error) {
		n, oobn, _, from, err = unix.Recvmsg(fd, d.recv, oob[:], 0)
		return err
	})
	if errors.Is(err, unix.EAGAIN) {
		return "", unix.ETIMEDOUT
	}
	if err != nil {
		return "", err
	}
	c.From = addrPort(from)
	if d.load.Unconnected {
		if err := d.receivedAt(fd, oob[:oobn], c); err != nil {
			return "", err
		}
	}
	name := int(d.recv[0])
	if n < 1 || n != 1+name+len(payload) || !bytes.Equal(d.recv[1+name:n], payload) {
		return "", errEcho
	}
	return string(d.recv[1 : 1+name]), nil
}

// receivedAt puts the address that a datagram was sent to, with the socket's port,
// into c.Local.
func (d *dialer) receivedAt(fd int, oob []byte, c *Conn) error {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	at, ok := packetInfo(oob)
	if !ok {
		return errNoInfo
	}
	c.Local = netip.AddrPortFrom(at, addrPort(local).Port())
	return nil
}

var errNoInfo = errors.New("the kernel does not say where a datagram came to")

// packetInfo finds the destination in the control messages of a datagram.
func packetInfo(oob []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])), true // ipi_addr
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16])), true // ipi6_addr
		}
	}
	return netip.Addr{}, false
}

// again repeats a call that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is one UDP port of a server.
type socket struct {
	server *server
	conn   *net.UDPConn
	cookie uint64
	port   uint16

	mu sync.Mutex
	// clients are those whose last datagram has not come yet, by ID.
	clients map[uint64]*Conn
}

// listenUDP opens a socket that tells where each datagram came to.
func (s *server) listenUDP(addr string) error {
	listen := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
			if err == nil {
				err = wantPacketInfo(int(fd), domain == unix.AF_INET)
			}
			set = err
		})
		if err != nil {
			return err
		}
		return set
	}}
	p, err := listen.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		return err
	}
	u := &socket{server: s, conn: p.(*net.UDPConn), clients: map[uint64]*Conn{}}
	s.sockets = append(s.sockets, u)
	u.port = u.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if u.cookie, err = cookieOf(u.conn); err != nil {
		return fmt.Errorf("cookie of UDP port %d: %w", u.port, err)
	}
	return nil
}

// run answers until the socket is closed, or its deadline passes with nothing
// waiting; then it closes it.
func (u *socket) run() {
	defer u.conn.Close()
	in, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, from, err := u.conn.ReadMsgUDPAddrPort(in, oob)
		if err != nil {
			return
		}
		u.answer(in[:n], oob[:oobn], from)
	}
}

// answer sends one datagram back with the server's name before it. What is not of
// this package's clients is not answered.
func (u *socket) answer(in, oob []byte, from netip.AddrPort) {
	if len(in) < headerLen {
		return
	}
	id, size := header(in)
	payload := in[headerLen:]
	if size&^lastDatagram != len(payload) {
		return
	}
	at, _ := packetInfo(oob)
	name := u.server.name
	out := append(append(append(make([]byte, 0, 1+len(name)+len(payload)), byte(len(name))), name...), payload...)
	// Who has the answer may ask at once what is known of it.
	u.mu.Lock()
	defer u.mu.Unlock()
	_, err := u.conn.WriteToUDPAddrPort(out, from)
	c := u.client(id, netip.AddrPortFrom(at.Unmap(), u.port), from)
	c.Datagrams++
	c.Received += int64(len(payload))
	if err != nil {
		c.Op, c.Errno = "sendto", errnoName(err)
	} else {
		c.Sent += int64(len(payload))
	}
	if size&lastDatagram != 0 {
		u.report(id)
	}
}

// client is what is known of a client's socket. One that comes from, or to,
// another address than before is reported as it was: it is then twice in the
// server's report. u.mu must be held.
func (u *socket) client(id uint64, at, from netip.AddrPort) *Conn {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	c := u.clients[id]
	if c != nil && (c.Local != at || c.Peer != from) {
		u.report(id)
		c = nil
	}
	if c == nil {
		c = &Conn{
			Role: Server, ID: id, Cookie: u.cookie, Server: u.server.name, Start: Monotonic(), Local: at, Peer: from,
		}
		c.Connected = c.Start
		u.clients[id] = c
	}
	return c
}

// report tells of a client, which is then forgotten. u.mu must be held.
func (u *socket) report(id uint64) {
	if c := u.clients[id]; c != nil {
		c.End = Monotonic()
		u.server.lines.put(line{Conn: c})
		delete(u.clients, id)
	}
}

// flush reports all whose last datagram has not come.
func (u *socket) flush() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := range u.clients {
		u.report(id)
	}
}

package traffic

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long a server waits for the next byte of a client.
const quiet = 60 * time.Second

// session is one connection at its server.
type session struct {
	server *server
	tcp    *net.TCPConn
	conn   Conn
	// spoken is set when the client has sent anything, raw when it has spoken the raw
	// protocol, ours when it is a client of this package. Under server.mu, with
	// conn.Served.
	spoken, raw, ours bool
	// first is set when the server has spoken first.
	first bool
	// done is closed after the connection's line has been queued.
	done chan struct{}
}

// admit takes a new connection in; nil when the server has stopped meanwhile.
func (s *server) admit(c *net.TCPConn) *session {
	ses := &session{server: s, tcp: c, done: make(chan struct{})}
	ses.conn = Conn{Role: Server, Start: Monotonic(), Local: unmapped(c.LocalAddr()), Peer: unmapped(c.RemoteAddr())}
	ses.conn.Server = s.name
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		ses.reset()
		return nil
	}
	s.open[ses] = struct{}{}
	return ses
}

func (ses *session) reset() {
	ses.tcp.SetLinger(0) // fails only on a closed socket
	ses.tcp.Close()
}

func (ses *session) run() {
	in := readers.Get().(*bufio.Reader)
	in.Reset(ses.tcp)
	if err := ses.talk(in); err != nil {
		ses.conn.Errno = errnoName(err)
	}
	ses.tcp.Close()
	if ses.raw { // the HTTP server may still hold the reader of another
		readers.Put(in)
	}
	ses.conn.End = Monotonic()
	ses.server.mu.Lock()
	told := ses.conn // requests are over, and counted
	ses.server.mu.Unlock()
	ses.server.lines.put(line{Conn: &told})
	ses.server.mu.Lock()
	delete(ses.server.open, ses)
	ses.server.mu.Unlock()
	close(ses.done)
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

// talk serves the connection until the client ends it. The end itself, orderly
// or by a reset, is no error.
func (ses *session) talk(in *bufio.Reader) error {
	ses.conn.Op = "getsockopt"
	cookie, err := cookieOf(ses.tcp)
	if err != nil {
		return err
	}
	ses.conn.Cookie, ses.conn.Connected = cookie, ses.conn.Start
	if slices.Contains(ses.server.first, ses.conn.Local.Port()) {
		ses.first = true
		ses.conn.Op = "write"
		if _, err := ses.tcp.Write(ses.server.greeting()); err != nil {
			return err
		}
	}
	ses.conn.Op = "read"
	ses.tcp.SetReadDeadline(time.Now().Add(quiet))
	first, err := in.Peek(1)
	if err != nil {
		return err
	}
	ses.server.mu.Lock()
	ses.spoken = true
	ses.server.mu.Unlock()
	if first[0] != 0 {
		ses.conn.Op = ""
		return ses.server.web.serve(ses, in)
	}
	if err := ses.answer(in); err != nil {
		return err
	}
	ses.conn.Op = ""
	in.WriteTo(io.Discard) // until the client has gone: EOF or ECONNRESET
	return nil
}

// answer reads the header and the payload and sends them back.
func (ses *session) answer(in *bufio.Reader) error {
	var head [headerLen]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return err
	}
	id, size := header(head[:])
	if size > MaxBytes {
		return unix.EMSGSIZE
	}
	ses.conn.ID = id
	ses.server.mu.Lock()
	ses.raw, ses.ours = true, true
	ses.server.mu.Unlock()

	before := ses.server.greeting()
	if ses.first {
		before = nil // it has been said
	}
	out := append(before, make([]byte, size)...)
	n, err := io.ReadFull(in, out[len(before):])
	ses.conn.Received = int64(n)
	if err != nil {
		return err
	}
	ses.conn.Op = "write"
	if _, err := ses.tcp.Write(out); err != nil {
		return err
	}
	ses.conn.Sent = int64(size)
	return nil
}

// greeting is the server's name behind its length.
func (s *server) greeting() []byte {
	return append([]byte{byte(len(s.name))}, s.name...)
}

// request counts a request of one of our HTTP clients.
func (ses *session) request(id uint64) {
	ses.server.mu.Lock()
	defer ses.server.mu.Unlock()
	ses.ours = true
	if ses.conn.Served == nil {
		ses.conn.Served = map[uint64]int{}
	}
	ses.conn.Served[id]++
}

func cookieOf(c syscall.Conn) (uint64, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cookie uint64
	var get error
	err = raw.Control(func(fd uintptr) {
		cookie, get = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	})
	return cookie, errors.Join(err, get)
}

// unmapped writes an IPv4 client of a dual-stack socket as IPv4.
func unmapped(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

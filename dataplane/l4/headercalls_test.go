package l4

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// What a child does as a waypoint that wants a header, and as a client of one.

// said is one line: the header in hexadecimal, or "none" and the first bytes, then
// how much came behind it, and its check sum.
func said(header []byte, err error, n int64, sum uint32) string {
	if err != nil {
		return fmt.Sprintf("none:%x\n", header)
	}
	return fmt.Sprintf("%x %d %08x\n", header, n, sum)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func listenHeaded(codec intent.Codec) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", codec.Port()))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveHeaded(codec, c)
		}
	}()
	return nil
}

// serveHeaded reads to the end and says what came. A connection without a header it
// refuses, as a waypoint does, but says so.
func serveHeaded(codec intent.Codec, c net.Conn) {
	defer c.Close()
	header, _, err := readHeader(codec, c)
	sum := crc32.New(castagnoli)
	n, rest := io.CopyBuffer(sum, struct{ io.Reader }{c}, make([]byte, 256<<10))
	if rest == nil || err != nil {
		io.WriteString(c, said(header, err, n, sum.Sum32()))
	}
}

// shapes are the first sends of an application. They send all of b.
var shapes = map[string]func(fd int, b []byte) error{
	"1 byte":       func(fd int, b []byte) error { return errors.Join(write(fd, b[:1]), write(fd, b[1:])) },
	"one write":    write,
	"writev":       writev,
	"sendmsg":      func(fd int, b []byte) error { return sendAll(fd, b, 0) },
	"zero first":   func(fd int, b []byte) error { return errors.Join(write(fd, nil), sendAll(fd, nil, 0), write(fd, b)) },
	"MSG_MORE":     sendMore,
	"MSG_ZEROCOPY": sendZerocopy,
	"non-blocking": sendNonblocking,
	"sendfile":     sendFile,
	"splice":       spliceIn,
	"cork":         sendCorked,
}

// sizes are how much each shape sends; the others send 3000 bytes.
var sizes = map[string]int{
	"one write": 1 << 20, "MSG_ZEROCOPY": 256 << 10, "non-blocking": 1 << 20, "sendfile": 512 << 10, "splice": 256 << 10,
}

func write(fd int, b []byte) error {
	for first := true; first || len(b) > 0; first = false {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			b = b[n:]
		}
	}
	return nil
}

func sendAll(fd int, b []byte, flags int) error {
	for first := true; first || len(b) > 0; first = false {
		n, err := unix.SendmsgN(fd, b, nil, nil, flags)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			b = b[n:]
		}
	}
	return nil
}

func writev(fd int, b []byte) error {
	third := len(b) / 3
	n, err := unix.Writev(fd, [][]byte{b[:1], b[1:third], b[third : 2*third], b[2*third:]})
	if err != nil {
		return err
	}
	return write(fd, b[n:])
}

func sendMore(fd int, b []byte) error {
	for len(b) > 77 {
		if err := sendAll(fd, b[:77], unix.MSG_MORE); err != nil {
			return err
		}
		b = b[77:]
	}
	return sendAll(fd, b, 0)
}

func sendCorked(fd int, b []byte) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, 1); err != nil {
		return err
	}
	err := errors.Join(write(fd, b[:10]), write(fd, b[10:]))
	return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_CORK, 0))
}

func sendNonblocking(fd int, b []byte) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10_000); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			b = b[n:]
		}
	}
	return unix.SetNonblock(fd, false)
}

func sendZerocopy(fd int, b []byte) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return err
	}
	return sendAll(fd, b, unix.MSG_ZEROCOPY)
}

// asFile is a file that holds b.
func asFile(b []byte) (int, error) {
	fd, err := unix.MemfdCreate("payload", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	_, err = unix.Pwrite(fd, b, 0)
	return fd, err
}

func sendFile(fd int, b []byte) error {
	file, err := asFile(b)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	for at := int64(0); at < int64(len(b)); {
		if _, err := unix.Sendfile(fd, file, &at, len(b)-int(at)); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

func spliceIn(fd int, b []byte) error {
	file, err := asFile(b)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for at := int64(0); at < int64(len(b)); {
		n, err := unix.Splice(file, &at, p[1], nil, min(len(b)-int(at), 60<<10), 0)
		if err != nil {
			return err
		}
		for left := n; left > 0; {
			m, err := unix.Splice(p[0], nil, fd, nil, int(left), 0)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			left -= m
		}
	}
	return nil
}

// telling is what a client does to waypoints that want a header.
type telling struct {
	Codec      intent.Codec
	N, Threads int
	Shapes     []string
	To         []netip.AddrPort
	// Open is another way to connect than connect(2).
	Open string
	// Kept leaves each socket in a collection of the child's own, the control.
	Kept bool
}

// told is what came of it.
type told struct {
	Right, Wrong, Bare, Again, Failed int // Bare: no header; Again: EAGAIN of the read
	Wrongs, Failures                  []string
}

func tell(q telling) (all told) {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	payload := make([]byte, 1<<20+4096)
	for i := range payload {
		payload[i] = byte(i*2654435761>>7) | 1
	}
	for range max(1, q.Threads) {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(q.N); i = next.Add(1) {
				shape := q.Shapes[int(i)%len(q.Shapes)]
				to := q.To[int(i)/len(q.Shapes)%len(q.To)]
				size := max(sizes[shape], 3000)
				b := payload[int(i)%4096:][:size]
				line, want, err := tellOne(q, shape, to, b)
				mu.Lock()
				all.judge(shape, to, line, want, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all
}

func (a *told) judge(shape string, to netip.AddrPort, line, want string, err error) {
	const kept = 3
	switch {
	case errors.Is(err, unix.EAGAIN):
		a.Again++
	case err != nil:
		if a.Failed++; a.Failed <= kept {
			a.Failures = append(a.Failures, fmt.Sprintf("%s %s: %v", shape, to, err))
		}
	case strings.HasPrefix(line, "none:"):
		a.Bare++
	case line == want:
		a.Right++
	default:
		if a.Wrong++; a.Wrong <= kept {
			a.Wrongs = append(a.Wrongs, fmt.Sprintf("%s %s: got %q, want %q", shape, to, line, want))
		}
	}
}

// tellOne sends, says that this was all, and waits without a limit of its own for
// what the other end saw.
func tellOne(q telling, shape string, to netip.AddrPort, b []byte) (line, want string, err error) {
	domain := unix.AF_INET
	if !to.Addr().Is4() {
		domain = unix.AF_INET6
	}
	proto := 0
	if q.Open == "MPTCP" {
		proto = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return "", "", err
	}
	defer unix.Close(fd)
	if err := openBy(q.Open, fd, sockaddr(domain, to)); err != nil {
		return "", "", fmt.Errorf("connect: %w", errors.Join(err, errConnect))
	}
	if q.Kept {
		if err := keepSocket(fd); err != nil {
			return "", "", err
		}
	}
	if err := shapes[shape](fd, b); err != nil {
		return "", "", fmt.Errorf("send: %w", errors.Join(err, errSend))
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return "", "", fmt.Errorf("shutdown: %w", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return "", "", err
	}
	line, err = readLine(fd)
	golden := hex.EncodeToString(goldenHeader(q.Codec, addrPortOf(sa), to))
	return line, fmt.Sprintf("%s %d %08x\n", golden, len(b), crc32.Checksum(b, castagnoli)), err
}

// Where an error of a system call is not the read's.
var errConnect, errSend = errors.New("of connect"), errors.New("of send")

func openBy(way string, fd int, to unix.Sockaddr) error {
	switch way {
	case "MSG_FASTOPEN":
		return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, to)
	case "TFO connect":
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
			return err
		}
	case "not waited for": // what is sent next begins before the socket is established
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return unix.SetNonblock(fd, false)
	}
	return unix.Connect(fd, to)
}

// silent opens connections and sends nothing.
func silent(q telling) (fds []int, err error) {
	for i := range q.N {
		to := q.To[i%len(q.To)]
		domain := unix.AF_INET
		if !to.Addr().Is4() {
			domain = unix.AF_INET6
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
		if err := unix.Connect(fd, sockaddr(domain, to)); err != nil {
			return fds, err
		}
	}
	return fds, nil
}

// firstSend opens a connection, sends, and leaves it open.
func firstSend(q telling) (int, error) {
	fds, err := silent(q)
	if err != nil {
		return 0, err
	}
	shape := q.Shapes[0]
	return fds[0], shapes[shape](fds[0], make([]byte, max(sizes[shape], 3000)))
}

// readWithin is a read that gives up, of a socket that is not the test's subject.
func readWithin(fd int, limit time.Duration) (string, error) {
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return "", err
	}
	return readLine(fd)
}

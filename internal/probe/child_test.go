package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Fprintln(os.Stderr, "client process:", err)
		os.Exit(1)
	}
}

// child does the steps that it reads, with system calls of its own: nothing
// between the test and the kernel may resolve, retry or reuse.
func child() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var steps []step
	if err := json.Unmarshal(line, &steps); err != nil {
		return err
	}
	c := client{in: in, out: json.NewEncoder(os.Stdout), fd: -1}
	for range max(1, steps[0].Repeat) {
		for _, s := range steps {
			if err := c.do(s); err != nil {
				return fmt.Errorf("%s: %w", s.Do, err)
			}
		}
	}
	return nil
}

type client struct {
	in  *bufio.Reader
	out *json.Encoder
	fd  int
}

func (c *client) do(s step) (err error) {
	switch s.Do {
	case "socket4":
		c.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	case "socket6":
		c.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	case "udp4":
		c.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	case "connect":
		return c.tell(s.Do, unix.Connect(c.fd, sockaddr(s.To)))
	case "send":
		return c.tell(s.Do, unix.Sendto(c.fd, []byte("x"), 0, sockaddr(s.To)))
	case "fastopen": // RFC 7413: the data asks for the connection
		return c.tell(s.Do, unix.Sendto(c.fd, []byte("x"), unix.MSG_FASTOPEN, sockaddr(s.To)))
	case "unspec":
		err = disconnect(c.fd)
	case "reset":
		if err := unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
		err = unix.Close(c.fd)
	case "close":
		err = unix.Close(c.fd)
	case "wait":
		if err := c.out.Encode(told{Do: s.Do}); err != nil {
			return err
		}
		_, err = c.in.ReadByte()
	case "serve":
		err = c.serve(int(s.To.Port()))
	default:
		err = errors.New("unknown step")
	}
	return err
}

// serve reads every connection to its end and closes it, until standard input
// ends.
func (c *client) serve(port int) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	if err := c.out.Encode(told{Do: "serve"}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c.in)
	return errors.Join(err, l.Close())
}

func (c *client) tell(do string, result error) error {
	t := told{Do: do}
	if !errors.As(result, &t.Errno) && result != nil {
		return result
	}
	var err error
	if t.Cookie, err = unix.GetsockoptUint64(c.fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return err
	}
	sa, err := unix.Getsockname(c.fd)
	if err != nil {
		return err
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		t.Local = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		t.Local = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return c.out.Encode(t)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// disconnect is connect(AF_UNSPEC), for which x/sys has no type.
func disconnect(fd int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), addressOf(&sa), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

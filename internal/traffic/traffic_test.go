package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if IsChild() {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// launch starts this test binary as a traffic process on this machine.
func launch(ctx context.Context, args []string, stdin, stdout *os.File) (func() error, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	var said bytes.Buffer
	cmd.Args, cmd.Stdin, cmd.Stdout, cmd.Stderr = args, stdin, stdout, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, said.String())
		}
		return nil
	}, nil
}

// lines collects what a server saw.
type lines struct {
	mu  sync.Mutex
	all []Conn
}

func (l *lines) add(c Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, c)
}

func (l *lines) get() []Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Conn(nil), l.all...)
}

// freePort returns a loopback port that was free a moment ago.
func freePort(tb testing.TB) uint16 {
	tb.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func testContext(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// mustServe starts a server named "srv" on a free port of all addresses.
func mustServe(tb testing.TB) (*RemoteServer, uint16, *lines) {
	tb.Helper()
	seen, port := new(lines), freePort(tb)
	s, err := StartServer(testContext(tb), launch, ServerConfig{Name: "srv", Ports: []uint16{port}}, seen.add)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close server: %v", err)
		}
	})
	return s, port, seen
}

func mustSync(tb testing.TB, s *RemoteServer) {
	tb.Helper()
	if err := s.Sync(testContext(tb)); err != nil {
		tb.Fatal(err)
	}
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

func TestEveryConnectionJoins(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		t.Run(addr, func(t *testing.T) {
			s, port, seen := mustServe(t)
			l := Load{To: at(addr, port), Connections: 2000, Workers: 8, Bytes: 100, FirstID: 7000}
			calls := 0
			conns, err := RunClient(testContext(t), launch, l, func(Conn) { calls++ })
			if err != nil {
				t.Fatal(err)
			}
			mustSync(t, s)
			if calls != 2000 || len(conns) != 2000 {
				t.Errorf("%d calls and %d lines for 2000 connections", calls, len(conns))
			}
			join(t, conns, seen.get())
		})
	}
}

// join checks that each client line has exactly one server line, and that the
// two tell the same.
func join(t *testing.T, clients, servers []Conn) {
	t.Helper()
	if len(servers) != len(clients) {
		t.Errorf("%d lines of the server for %d of clients", len(servers), len(clients))
	}
	byID := map[uint64]Conn{}
	for _, s := range servers {
		if _, twice := byID[s.ID]; twice {
			t.Fatalf("the server has ID %d twice", s.ID)
		}
		byID[s.ID] = s
	}
	cookies := map[uint64]bool{}
	for _, c := range clients {
		s, ok := byID[c.ID]
		delete(byID, c.ID)
		switch {
		case !ok:
			t.Fatalf("the server has no ID %d", c.ID)
		case c.Errno != "" || s.Errno != "":
			t.Fatalf("connection failed: %+v, %+v", c, s)
		case c.Server != "srv" || c.Asked != c.Peer || unmap(c.Local) != s.Peer || unmap(c.Peer) != s.Local:
			t.Fatalf("the ends tell different addresses: %+v, %+v", c, s)
		case c.Sent != 100 || c.Received != 100 || s.Sent != 100 || s.Received != 100:
			t.Fatalf("bytes were lost: %+v, %+v", c, s)
		case c.Cookie == 0 || s.Cookie == 0 || cookies[c.Cookie] || c.Cookie == s.Cookie:
			t.Fatalf("cookies are not unique: %+v, %+v", c, s)
		case c.Start == 0 || c.Connected < c.Start || c.End < c.Connected || s.Start < c.Start || s.End < s.Start:
			t.Fatalf("times run backwards: %+v, %+v", c, s)
		}
		cookies[c.Cookie] = true
	}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func TestRefusedAndUnreachable(t *testing.T) {
	for to, want := range map[netip.AddrPort]string{
		at("127.0.0.1", freePort(t)):        "ECONNREFUSED",
		at("::1", freePort(t)):              "ECONNREFUSED",
		at("::ffff:127.0.0.1", freePort(t)): "ECONNREFUSED",
		// A multicast address cannot be connected to.
		at("224.0.0.1", 80): "ENETUNREACH",
	} {
		conns, err := RunClient(testContext(t), launch, Load{To: to, Connections: 3}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			if c.Op != "connect" || c.Errno != want || c.Connected != 0 || c.Cookie == 0 || c.Asked != to {
				t.Errorf("%s: got %+v, want %s from connect", to, c, want)
			}
		}
	}
}

func TestBind(t *testing.T) {
	s, port, seen := mustServe(t)
	l := Load{To: at("127.0.0.1", port), Connections: 2, Bind: at("127.0.0.9", 0)}
	conns, err := RunClient(testContext(t), launch, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustSync(t, s)
	for _, c := range append(conns, seen.get()...) {
		from := c.Local
		if c.Role == Server {
			from = c.Peer
		}
		if from.Addr() != netip.MustParseAddr("127.0.0.9") {
			t.Errorf("%s says the client is %s", c.Role, from)
		}
	}
	l.Bind = at("127.0.0.1", port) // taken
	conns, err = RunClient(testContext(t), launch, l, nil)
	if err != nil || conns[0].Op != "bind" || conns[0].Errno != "EADDRINUSE" {
		t.Errorf("bound to a taken address: %+v, %v", conns, err)
	}
}

func TestSchedule(t *testing.T) {
	_, port, _ := mustServe(t)
	l := Load{To: at("127.0.0.1", port), Connections: 41, Workers: 4, PerSecond: 100}
	conns, err := RunClient(testContext(t), launch, l, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, last := conns[0].Start, conns[0].Start
	for _, c := range conns {
		first, last = min(first, c.Start), max(last, c.Start)
	}
	if took := time.Duration(last - first); took < 390*time.Millisecond {
		t.Errorf("41 connections at 100 per second began within %v, want 400ms", took)
	}
}

func TestStopResets(t *testing.T) {
	s, port, _ := mustServe(t)
	open, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := open.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Stop(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || errnoName(err) != "ECONNRESET" {
		t.Errorf("the open connection ended with %v, want ECONNRESET", err)
	}
	conns, err := RunClient(testContext(t), launch, Load{To: at("127.0.0.1", port), Connections: 2}, nil)
	if err != nil || conns[0].Errno != "ECONNREFUSED" {
		t.Errorf("after stop: %+v, %v", conns, err)
	}
}

// TestBadClients shows that clients which break the protocol are reported and
// stop nobody else.
func TestBadClients(t *testing.T) {
	s, port, seen := mustServe(t)
	huge := make([]byte, headerLen)
	putHeader(huge, 5, MaxBytes+1)
	short := make([]byte, headerLen)
	putHeader(short, 6, 100)
	for _, sent := range [][]byte{nil, {0, 0}, huge, short} {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%x was answered by %x, %v", sent, got, err)
		}
		c.Close()
	}
	conns, err := RunClient(testContext(t), launch, Load{To: at("127.0.0.1", port), Connections: 1, FirstID: 9}, nil)
	if err != nil || conns[0].Server != "srv" {
		t.Errorf("a good client after bad ones: %+v, %v", conns, err)
	}
	mustSync(t, s)
	got := map[string]bool{}
	for _, c := range seen.get() {
		got[fmt.Sprintf("%d %s %s", c.ID, c.Op, c.Errno)] = true
	}
	for _, want := range []string{"0 read EOF", "0 read unexpected EOF", "0 read EMSGSIZE", "6 read EOF", "9  "} {
		if !got[want] {
			t.Errorf("no line %q in %v", want, got)
		}
	}
}

// TestBrokenServer shows that a client does not take any answer for an echo.
func TestBrokenServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := make([]byte, headerLen+4)
			io.ReadFull(c, in)
			c.Write([]byte{1, 'x', 0, 0, 0, 0})
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	to := netip.MustParseAddrPort(l.Addr().String())
	conns, err := RunClient(testContext(t), launch, Load{To: to, Connections: 1, Bytes: 4, FirstID: 1}, nil)
	if err != nil || conns[0].Errno != "EBADMSG" || conns[0].Op != "read" {
		t.Errorf("got %+v, %v; want EBADMSG from read", conns, err)
	}
}

func TestHTTP(t *testing.T) {
	s, port, seen := mustServe(t)
	client := http.Client{Transport: &http.Transport{}}
	for range 3 {
		r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/any", port))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || string(body) != "srv\n" {
			t.Errorf("got %q, %v", body, err)
		}
	}
	mustSync(t, s) // an open HTTP connection does not hold it up
	client.CloseIdleConnections()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := seen.get(); len(got) != 1 || got[0].ID != 0 || got[0].Cookie == 0 {
		t.Errorf("lines %+v, want one without ID", got)
	}
}

func TestStartErrors(t *testing.T) {
	_, port, _ := mustServe(t)
	_, err := StartServer(testContext(t), launch, ServerConfig{Name: "second", Ports: []uint16{port}}, nil)
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second server on one port: %v", err)
	}
	_, err = StartServer(testContext(t), launch, ServerConfig{Name: strings.Repeat("x", 256)}, nil)
	if err == nil || !strings.Contains(err.Error(), "at most 255") {
		t.Errorf("a long name: %v", err)
	}
	for want, l := range map[string]Load{
		"no address":   {},
		"connections":  {To: at("127.0.0.1", 1), Connections: -1},
		"bytes":        {To: at("127.0.0.1", 1), Bytes: MaxBytes + 1},
		"per second":   {To: at("127.0.0.1", 1), PerSecond: -1},
		"IDs above":    {To: at("127.0.0.1", 1), FirstID: MaxID, Connections: 1},
		"of one famil": {To: at("127.0.0.1", 1), Bind: at("::1", 0)},
	} {
		if _, err := RunClient(testContext(t), launch, l, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", l, err, want)
		}
	}
}

func TestCancel(t *testing.T) {
	_, port, _ := mustServe(t)
	ctx, cancel := context.WithCancel(testContext(t))
	l := Load{To: at("127.0.0.1", port), Connections: 100, PerSecond: 20}
	conns, err := RunClient(ctx, launch, l, func(Conn) { cancel() })
	if err == nil || len(conns) == 0 || len(conns) == 100 {
		t.Errorf("a cancelled client gave %d connections and %v", len(conns), err)
	}
}

// TestInterruptedConnect shows that finish waits for what a signal cut short.
func TestInterruptedConnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good := netip.MustParseAddrPort(l.Addr().String())
	for to, want := range map[netip.AddrPort]error{good: nil, at("127.0.0.1", freePort(t)): unix.ECONNREFUSED} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(to)); !errors.Is(err, unix.EINPROGRESS) {
			t.Fatalf("connect without blocking: %v", err)
		}
		if err := finish(fd); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", to, err, want)
		}
	}
}

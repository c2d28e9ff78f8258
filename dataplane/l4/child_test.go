package l4

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/internal/kernel"
)

// A process of a pod is this test binary, born in the pod's cgroup and network
// namespace, and told over a pipe which system calls to make.

const childEnv = "DUOMESH_L4_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := serveCalls(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "test child:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// call is one request to a child; answer what came of it.
type call struct {
	Op        string
	FD        int
	Domain    int
	Type      int
	Proto     int
	To        netip.AddrPort
	All       []netip.AddrPort
	N         int
	Way       string // of "way"
	Of        int    // of "spread": how many services there are
	Listening listenHow
	Asking    asking
	Telling   telling
	Measuring measuring
}

type answer struct {
	FD    int
	Errno syscall.Errno
	Peer  netip.AddrPort
	Heard heard
	Tally []tally
	Asked asked
	Told  told
	Took  int64
	FDs   []int
	Line  string
}

// tally counts connections by what was asked and what came of it.
type tally struct {
	Asked netip.AddrPort
	Peer  netip.AddrPort
	Errno syscall.Errno
	N     int
}

type child struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	mu  sync.Mutex
}

func startChild(tb testing.TB, netns, cgroup *os.File) *child {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	in, err := cmd.StdinPipe()
	must(tb, err)
	out, err := cmd.StdoutPipe()
	must(tb, err)
	must(tb, kernel.InNetns(netns, cmd.Start))
	tb.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("test child: %v", err)
		}
	})
	return &child{cmd: cmd, in: json.NewEncoder(in), out: json.NewDecoder(out)}
}

func (c *child) do(tb testing.TB, q call) answer {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var a answer
	must(tb, c.in.Encode(q))
	must(tb, c.out.Decode(&a))
	return a
}

// dial makes a TCP connection, asks for its peer and resets it.
func (c *child) dial(tb testing.TB, domain int, to netip.AddrPort) answer {
	tb.Helper()
	return c.do(tb, call{Op: "dial", Domain: domain, Type: unix.SOCK_STREAM, To: to})
}

func serveCalls(in io.Reader, out io.Writer) error {
	queries, answers := json.NewDecoder(in), json.NewEncoder(out)
	var h *hammer
	for {
		var q call
		if err := queries.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a answer
		switch q.Op {
		case "askers":
			h = startAskers(q.N, q.All)
		case "hammer":
			h = startHammer(q.N, q.All)
		case "halt":
			a.Tally = h.halt()
		default:
			a = perform(q)
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func perform(q call) (a answer) {
	var err error
	switch q.Op {
	case "socket":
		a.FD, err = unix.Socket(q.Domain, q.Type, q.Proto)
	case "connect":
		err = unix.Connect(q.FD, sockaddr(q.Domain, q.To))
	case "bind":
		err = unix.Bind(q.FD, sockaddr(q.Domain, q.To))
	case "disconnect":
		a.Errno = disconnect(q.FD)
	case "poll":
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(q.FD), Events: unix.POLLOUT}}, 5000)
	case "await":
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(q.FD), Events: unix.POLLIN}}, 5000)
	case "peer":
		a.Peer, err = peerOf(q.FD)
	case "close":
		err = unix.Close(q.FD)
	case "udp":
		a.FD, err = openUDP(q.Domain)
	case "say":
		err = say(q.FD, q.Domain, q.To)
	case "hear":
		a.Heard, err = hear(q.FD)
	case "datagram":
		a.Heard, err = askOnce(q.Domain, q.To, false)
		a.Peer = a.Heard.At
	case "connected datagram":
		a.Heard, err = askOnce(q.Domain, q.To, true)
		a.Peer = a.Heard.At
	case "way":
		a.Peer, err = ways[q.Way](q)
	case "waypoint":
		err = listenWaypoint(q.Listening)
	case "ask":
		a.Asked = ask(q.Asking)
	case "headed":
		err = listenHeaded(q.Telling.Codec)
	case "zerocopy":
		var first, last uint32
		first, last, err = zerocopyIDs(q.To, q.N)
		a.FD, a.Took = int(first), int64(last)
	case "read first":
		a.Line, err = readFirst(q.To, q.N)
	case "sink":
		err = listenSink(q.N)
	case "measure":
		a.Took, err = measure(q.Measuring)
	case "tell":
		a.Told = tell(q.Telling)
	case "silent":
		a.FDs, err = silent(q.Telling)
	case "first send":
		a.FD, err = firstSend(q.Telling)
	case "write":
		err = write(q.FD, make([]byte, q.N))
	case "half close":
		err = unix.Shutdown(q.FD, unix.SHUT_WR)
	case "line":
		a.Line, err = readWithin(q.FD, 10*time.Second)
	case "options":
		err = askOptions()
	case "version":
		a.FD, err = handoff.InstalledVersion()
	case "dial":
		a.Peer, err = dialOnce(q.Domain, q.Type, q.Proto, q.To)
	case "repeat":
		for range q.N {
			if _, err = dialOnce(q.Domain, q.Type, q.Proto, q.To); err != nil {
				break
			}
		}
	case "spread":
		for range q.N {
			if _, err = dialOnce(v4, q.Type, 0, netip.AddrPortFrom(vipOf(rand.IntN(q.Of)), 80)); err != nil {
				break
			}
		}
	case "asks":
		for range q.N {
			if err = say(q.FD, v4, q.To); err != nil {
				break
			}
			if a.Heard, err = hear(q.FD); err != nil {
				break
			}
		}
	case "exchange":
		for range q.N {
			if err = exchange(q.Domain, q.To); err != nil {
				break
			}
		}
	default:
		err = unix.ENOSYS
	}
	if err != nil && a.Errno == 0 && !errors.As(err, &a.Errno) {
		a.Errno = unix.EPROTO
	}
	return a
}

func dialOnce(domain, typ, proto int, to netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	// Close by reset: no port is kept in TIME_WAIT.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return netip.AddrPort{}, err
	}
	if err := unix.Connect(fd, sockaddr(domain, to)); err != nil {
		return netip.AddrPort{}, err
	}
	return peerOf(fd)
}

// exchange connects and waits until the server has accepted and closed.
func exchange(domain int, to netip.AddrPort) error {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(domain, to)); err != nil {
		return err
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 1))
	return err
}

func sockaddr(domain int, to netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	zone, _ := strconv.ParseUint(to.Addr().Zone(), 10, 32) // 0 without
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16(), ZoneId: uint32(zone)}
}

// peerOf keeps a v4-mapped answer as it is.
func peerOf(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrPortOf(sa), nil
}

func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// disconnect is connect(2) to AF_UNSPEC, which the library cannot express.
func disconnect(fd int) syscall.Errno {
	var unspec [16]byte
	return connectRaw(fd, unspec[:])
}

// hammer connects to random addresses of a list from several threads.
type hammer struct {
	stop    atomic.Bool
	threads sync.WaitGroup
	mu      sync.Mutex
	total   map[tally]int
}

func startHammer(threads int, to []netip.AddrPort) *hammer {
	h := &hammer{total: map[tally]int{}}
	for i := range threads {
		h.threads.Go(func() {
			seen := map[tally]int{}
			for n := i; !h.stop.Load(); n++ {
				one := tally{Asked: to[n%len(to)]}
				domain := unix.AF_INET
				if one.Asked.Addr().Is6() {
					domain = unix.AF_INET6
				}
				peer, err := dialOnce(domain, unix.SOCK_STREAM, 0, one.Asked)
				one.Peer = peer
				if err != nil && !errors.As(err, &one.Errno) {
					one.Errno = unix.EPROTO
				}
				seen[one]++
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			for k, n := range seen {
				h.total[k] += n
			}
		})
	}
	return h
}

func (h *hammer) halt() []tally {
	h.stop.Store(true)
	h.threads.Wait()
	var all []tally
	for t, n := range h.total {
		t.N = n
		all = append(all, t)
	}
	return all
}

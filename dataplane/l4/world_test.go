package l4

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func connectRaw(fd int, addr []byte) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&addr[0])), uintptr(len(addr)))
	return errno
}

// ports are those on which every address of a pod listens.
var ports = []uint16{80, 7001, 7002, 7003}

var worlds atomic.Int64

// node is a scratch cgroup with pods below it.
type node struct {
	cgroup *os.File
}

func newNode(tb testing.TB) *node {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	mount, err := kernel.Cgroup2()
	must(tb, err)
	name := fmt.Sprintf("duomesh-l4-test-%d-%d", os.Getpid(), worlds.Add(1))
	return &node{cgroup: makeCgroup(tb, filepath.Join(mount, name))}
}

func makeCgroup(tb testing.TB, path string) *os.File {
	tb.Helper()
	must(tb, os.Mkdir(path, 0o755))
	tb.Cleanup(func() {
		must(tb, eventually(func() error { return os.Remove(path) }))
	})
	f, err := os.Open(path)
	must(tb, err)
	tb.Cleanup(func() { f.Close() })
	return f
}

// eventually repeats f for at most 5 s until it returns nil.
func eventually(f func() error) error {
	deadline := time.Now().Add(5 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); ; <-tick {
		if err := f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// pod is a network namespace in which every address of 10.0.0.0/8 and fd00::/8
// is its own and listens on ports, and one process in it: a connection that is
// not redirected is answered as well, so a refusal is the engine's.
type pod struct {
	Pod
	*child
}

func (n *node) pod(tb testing.TB, name string) *pod {
	tb.Helper()
	ns, err := kernel.NewNetns()
	must(tb, err)
	tb.Cleanup(func() { ns.Close() })
	ownAddresses(tb, ns)
	listen(tb, ns)
	serveUDP(tb, ns)
	cg := makeCgroup(tb, filepath.Join(n.cgroup.Name(), strings.ReplaceAll(name, "/", "-")))
	p := &pod{Pod: Pod{Name: name, Netns: ns, Cgroup: cg}}
	p.child = startChild(tb, ns, cg)
	return p
}

func ownAddresses(tb testing.TB, ns *os.File) {
	tb.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	must(tb, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	must(tb, err)
	must(tb, h.LinkSetUp(lo))
	for _, prefix := range []string{"10.0.0.0/8", "fd00::/8"} {
		_, dst, err := net.ParseCIDR(prefix)
		must(tb, err)
		must(tb, h.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: dst,
			Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST,
		}))
	}
}

func listen(tb testing.TB, ns *os.File) {
	tb.Helper()
	for _, port := range ports {
		var l net.Listener
		must(tb, kernel.InNetns(ns, func() (err error) {
			l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) // both families
			return err
		}))
		tb.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
}

var here = intent.Place{
	Node: "node-a", Network: "net1", Cluster: "c1",
	Locality: intent.Locality{Region: "r1", Zone: "z1", Subzone: "s1"},
}

func (n *node) open(tb testing.TB, o Options) *Engine {
	tb.Helper()
	e, err := Open(n.host(), o)
	must(tb, err)
	tb.Cleanup(func() { must(tb, e.Close()) })
	return e
}

func (n *node) host() Host {
	return Host{Cgroup: n.cgroup, Place: here, Log: slog.New(slog.DiscardHandler)}
}

func apply(tb testing.TB, e *Engine, services ...*intent.Service) {
	tb.Helper()
	must(tb, e.Apply(context.Background(), intent.Snapshot{Services: services}))
}

func itoa(i int) string { return strconv.Itoa(i) }

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// workload is on the network of here and of weight 1.
func workload(uid string, addrs ...string) *intent.Workload {
	w := &intent.Workload{UID: uid, Name: uid, Namespace: "default", Weight: 1, Network: here.Network}
	for _, a := range addrs {
		w.Addresses = append(w.Addresses, addr(a))
	}
	return w
}

// service listens on VIP ports that map to 7001.
func service(name string, vips []string, ports []uint16, workloads ...*intent.Workload) *intent.Service {
	s := &intent.Service{Name: name, Namespace: "default"}
	for _, v := range vips {
		s.Addresses = append(s.Addresses, addr(v))
	}
	for _, p := range ports {
		s.Ports = append(s.Ports, intent.Port{Port: p, Target: 7001, Protocol: intent.TCP})
	}
	for _, w := range workloads {
		s.Endpoints = append(s.Endpoints, intent.Endpoint{Workload: w})
	}
	return s
}

// exitsOf returns the counters that rose while f ran, events under their names.
func exitsOf(tb testing.TB, e *Engine, f func()) map[intent.Exit]uint64 {
	tb.Helper()
	before := counts(tb, e)
	f()
	after := counts(tb, e)
	for name := range after {
		if after[name] -= before[name]; after[name] == 0 {
			delete(after, name)
		}
	}
	return after
}

func counts(tb testing.TB, e *Engine) map[intent.Exit]uint64 {
	tb.Helper()
	all, err := e.Exits()
	must(tb, err)
	events, err := e.Events()
	must(tb, err)
	for name, n := range events {
		all[intent.Exit(name)] = n
	}
	return all
}

func tcpKey(a netip.Addr, port uint16) meshFrontendKey {
	return frontendKey(intent.Frontend{Addr: a, Port: port, Protocol: intent.TCP})
}

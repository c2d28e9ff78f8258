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
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// The addresses of the ground: a client and a server joined by one veth. The
// server's end stands for the host's; the VIPs are addresses of the server, so
// that an unchanged connection to them arrives too.
var (
	client4 = netip.MustParseAddr("10.77.0.1")
	server4 = netip.MustParseAddr("10.77.0.2")
	vip4    = netip.MustParseAddr("10.77.9.9")
	client6 = netip.MustParseAddr("fd00:77::1")
	server6 = netip.MustParseAddr("fd00:77::2")
	vip6    = netip.MustParseAddr("fd00:77:9::9")
)

var prefixes = map[netip.Addr]int{client4: 24, server4: 24, vip4: 32, client6: 64, server6: 64, vip6: 128}

const (
	vipPort  = 80
	realPort = 8080
	deadPort = 9 // nobody listens
)

func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// ground is two namespaces and a cgroup for clients, below one for a mesh.
type ground struct {
	tb             testing.TB
	client, server *os.File // network namespaces
	parent, leaf   *os.File // the client's cgroups
	serverLeaf     *os.File
	links          []Link
}

func newGround(tb testing.TB) *ground {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF)
	g := &ground{tb: tb, client: mustNetns(tb), server: mustNetns(tb)}
	g.connect()
	root, err := kernel.Cgroup2()
	must(tb, err)
	parent := filepath.Join(root, fmt.Sprintf("duomesh-probe-test-%d-%s", os.Getpid(), filepath.Base(tb.Name())))
	g.parent = mustCgroup(tb, parent)
	g.leaf = mustCgroup(tb, filepath.Join(parent, "leaf"))
	g.serverLeaf = mustCgroup(tb, parent+"-server")
	return g
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func mustNetns(tb testing.TB) *os.File {
	tb.Helper()
	ns, err := kernel.NewNetns()
	must(tb, err)
	tb.Cleanup(func() { ns.Close() })
	return ns
}

func mustCgroup(tb testing.TB, path string) *os.File {
	tb.Helper()
	must(tb, os.Mkdir(path, 0o755))
	f, err := os.Open(path)
	must(tb, err)
	tb.Cleanup(func() {
		f.Close()
		eventually(tb, "remove cgroup "+path, func() bool { return os.Remove(path) == nil })
	})
	return f
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("%s: not within 10 s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (g *ground) connect() {
	tb := g.tb
	host, err := netlink.NewHandleAt(netns.NsHandle(g.server.Fd()))
	must(tb, err)
	defer host.Close()
	pod, err := netlink.NewHandleAt(netns.NsHandle(g.client.Fd()))
	must(tb, err)
	defer pod.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "toclient"}, PeerName: "toserver",
		PeerNamespace: netlink.NsFd(g.client.Fd()),
	}
	must(tb, host.LinkAdd(veth))
	up := func(h *netlink.Handle, name string, addrs ...netip.Addr) int {
		l, err := h.LinkByName(name)
		must(tb, err)
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(netip.PrefixFrom(a, prefixes[a]).String())
			must(tb, err)
			addr.Flags = unix.IFA_F_NODAD
			must(tb, h.AddrAdd(l, addr))
		}
		must(tb, h.LinkSetUp(l))
		return l.Attrs().Index
	}
	up(host, "lo", vip4, vip6)
	up(pod, "lo")
	hostIndex := up(host, "toclient", server4, server6)
	podIndex := up(pod, "toserver", client4, client6)
	for vip, via := range map[netip.Addr]netip.Addr{vip4: server4, vip6: server6} {
		must(tb, pod.RouteAdd(&netlink.Route{
			LinkIndex: podIndex, Gw: via.AsSlice(),
			Dst: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())},
		}))
	}
	g.links = []Link{
		{Netns: g.client, Ifindex: podIndex, Side: SidePod},
		{Netns: g.server, Ifindex: hostIndex, Side: SideHost},
	}
}

func (g *ground) clientTarget() Target {
	return Target{Pod: "client", Netns: g.client, Cgroup: g.leaf, Links: g.links}
}

func (g *ground) serverTarget() Target {
	return Target{Pod: "server", Netns: g.server, Cgroup: g.serverLeaf}
}

// open starts a probe of both pods.
func (g *ground) open(o Options) *Probe {
	g.tb.Helper()
	p, err := Open(g.tb.Context(), []Target{g.clientTarget(), g.serverTarget()}, o)
	must(g.tb, err)
	g.tb.Cleanup(func() { must(g.tb, p.Close()) })
	return p
}

// listen serves on all addresses of the server, in a process of its own.
func (g *ground) listen(port int) {
	g.tb.Helper()
	server := g.startIn(g.server, g.serverLeaf, []step{{Do: "serve", To: at(server4, uint16(port))}})
	server.next() // listens
	g.tb.Cleanup(func() {
		must(g.tb, server.in.Close())
		must(g.tb, server.cmd.Wait())
	})
}

// step is one thing that a client process does with its socket.
type step struct {
	Do     string         // socket4, socket6, udp4, connect, send, fastopen, unspec, close, reset, wait, serve
	To     netip.AddrPort // serve: its port alone
	Repeat int            // of the whole list, in the first step
}

// told is what a client process says of one call.
type told struct {
	Do     string
	Cookie uint64
	Local  netip.AddrPort
	Errno  syscall.Errno
}

// visit is one connection to an address, closed in order.
func visit(to netip.AddrPort) []step {
	socket := "socket4"
	if to.Addr().Is6() {
		socket = "socket6"
	}
	return []step{{Do: socket}, {Do: "connect", To: to}, {Do: "close"}}
}

func times(n int, steps []step) []step {
	steps[0].Repeat = n
	return steps
}

// process is a client, a child in the client's cgroup and namespace.
type process struct {
	tb  testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

const childEnv = "DUOMESH_PROBE_TEST_CHILD"

func (g *ground) start(steps []step) *process {
	g.tb.Helper()
	return g.startIn(g.client, g.leaf, steps)
}

func (g *ground) startIn(ns, cgroup *os.File, steps []step) *process {
	g.tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	in, err := cmd.StdinPipe()
	must(g.tb, err)
	out, err := cmd.StdoutPipe()
	must(g.tb, err)
	must(g.tb, kernel.InNetns(ns, cmd.Start))
	must(g.tb, json.NewEncoder(in).Encode(steps))
	return &process{tb: g.tb, cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}
}

// next waits until the process has said one more thing.
func (p *process) next() {
	p.tb.Helper()
	must(p.tb, p.out.Decode(new(told)))
}

// goOn ends a wait.
func (p *process) goOn() {
	p.tb.Helper()
	_, err := p.in.Write([]byte("\n"))
	must(p.tb, err)
}

// finish waits for the client's end and returns what it said about its
// connects and sends.
func (p *process) finish() []told {
	p.tb.Helper()
	var all []told
	for {
		var t told
		if err := p.out.Decode(&t); err != nil {
			if !errors.Is(err, io.EOF) {
				p.tb.Fatal(err)
			}
			break
		}
		all = append(all, t)
	}
	must(p.tb, p.cmd.Wait())
	return all
}

func (g *ground) run(steps []step) []told {
	g.tb.Helper()
	return g.start(steps).finish()
}

// settle waits until nothing is open and fails when that takes too long.
func settle(tb testing.TB, p *Probe) Ledger {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	l, err := p.Settle(ctx)
	must(tb, err)
	if ctx.Err() != nil {
		for _, n := range l.Lines {
			if n.Open() {
				tb.Logf("open: %+v", n)
				break
			}
		}
		tb.Fatalf("connections are still open after 10 s, of %d; %s", len(l.Lines), l.Lost)
	}
	return l
}

// judged judges what a client does, and has it done again under a new judge where the
// judge says that it lost something: then nothing is known, neither good nor bad. The
// last of three is returned whatever it lost.
func (g *ground) judged(o Options, steps []step) Ledger {
	g.tb.Helper()
	const most = 3
	for i := 1; ; i++ {
		p := g.open(o)
		g.run(steps)
		l := settle(g.tb, p)
		if l.Lost.Total() == 0 || i == most {
			return l
		}
		g.tb.Logf("inconclusive, judged again: %s", l.Lost)
		must(g.tb, p.Close())
	}
}

// linesOf returns a pod's lines of one role.
func linesOf(l Ledger, pod string, r Role) []Line {
	var lines []Line
	for _, x := range l.Lines {
		if x.Pod == pod && x.Role == r {
			lines = append(lines, x)
		}
	}
	return lines
}

// only returns a pod's single line of a role.
func only(tb testing.TB, l Ledger, pod string, r Role) Line {
	tb.Helper()
	lines := linesOf(l, pod, r)
	if len(lines) != 1 {
		tb.Fatalf("%d %s lines of %s, want 1: %+v", len(lines), r, pod, l)
	}
	return lines[0]
}

// ended reports whether a connection was closed in order, as far as it was seen.
func ended(n Line) bool {
	return n.State == StateClosed || (n.State == StateClosing && n.ReleasedAt != 0)
}

// lossless fails where the judge missed anything: no other statement counts then.
func lossless(tb testing.TB, l Ledger) {
	tb.Helper()
	if l.Lost.Total() != 0 {
		tb.Fatal(l.Lost)
	}
}

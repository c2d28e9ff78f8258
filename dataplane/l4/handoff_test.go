package l4

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

func TestConstantsOfTheHandoff(t *testing.T) {
	if meshMeshHandoffHANDOFF_VERSION != handoff.Version || meshMeshHandoffHANDOFF_VERSION_OPTION != handoff.VersionOption {
		t.Error("bpf/mesh/abi.h and package handoff differ")
	}
}

// passed is what the two ends have counted for f.
func (w *wired) passed(tb testing.TB, f func()) (client, server map[intent.Exit]uint64) {
	tb.Helper()
	client = exitsOf(tb, w.client, func() { server = exitsOf(tb, w.server, f) })
	return client, server
}

// wantEvents compares what both ends counted: forms of the option on one, answers on
// the other.
func (w *wired) wantEvents(tb testing.TB, n int, want []Event, f func()) {
	tb.Helper()
	client, server := w.passed(tb, f)
	seen := map[Event]uint64{}
	for _, end := range []map[intent.Exit]uint64{client, server} {
		for name, n := range end {
			if strings.HasPrefix(string(name), "handoff-") {
				seen[Event(name)] += n
			}
		}
	}
	for _, e := range want {
		if seen[e] != uint64(n) {
			tb.Errorf("%d of %d counted as %s: %v", seen[e], n, e, seen)
		}
		delete(seen, e)
	}
	if len(seen) > 0 {
		tb.Errorf("counted beside: %v", seen)
	}
}

const many = 50 // services

// families are the ways to ask for the addresses of vips.
func families(asked4, asked6 []netip.AddrPort) map[string][]netip.AddrPort {
	return map[string][]netip.AddrPort{"IPv4": asked4, "IPv6": asked6, "v4-mapped": mapped(asked4)}
}

// Thousands of connections stay open while two threads accept without a pause and
// ask at once. The server speaks first.
func TestHandoffOfManyConnections(t *testing.T) {
	w := newWired(t)
	client := w.enrolled(t, "default/client")
	way := w.waypoint(t, "default/waypoint", listenHow{Threads: 2})
	services, asked4, asked6 := vips(1000, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	const each = 3000
	for name, to := range families(asked4, asked6) {
		t.Run(name, func(t *testing.T) {
			w.wantEvents(t, each, []Event{HandoffFull, HandoffAnswered}, func() {
				client.wantRight(t, asking{
					N: each, Threads: 100, Hold: true, To: to, From: []netip.Addr{client.v4, client.v6},
				})
			})
		})
	}
	audited(t, w.client)
	audited(t, w.server)
}

// sysctl sets a value in a pod's namespace.
func (p *wiredPod) sysctl(tb testing.TB, name, value string) {
	tb.Helper()
	path := "/proc/sys/net/" + strings.ReplaceAll(name, ".", "/")
	err := kernel.InNetns(p.Netns, func() error { return os.WriteFile(path, []byte(value), 0) })
	if os.IsNotExist(err) {
		tb.Skipf("NOT RUN: the kernel has no %s", name)
	}
	must(tb, err)
}

// A server that answers every SYN with a cookie keeps none: the client sends the
// option once more.
func TestHandoffUnderSYNCookies(t *testing.T) {
	w := newWired(t)
	client := w.enrolled(t, "default/client")
	way := w.waypoint(t, "default/waypoint", listenHow{Threads: 2})
	way.sysctl(t, "ipv4.tcp_syncookies", "2")
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	for name, to := range families(asked4, asked6) {
		t.Run(name, func(t *testing.T) {
			w.wantEvents(t, 500, []Event{HandoffFull, HandoffResent, HandoffAnswered}, func() {
				client.wantRight(t, asking{N: 500, Threads: 20, To: to})
			})
		})
	}
	t.Run("MPTCP", func(t *testing.T) {
		client.needsMPTCP(t)
		client.wantRight(t, asking{N: 200, Threads: 10, Proto: unix.IPPROTO_MPTCP, To: asked4})
		client.wantRight(t, asking{N: 200, Threads: 10, Proto: unix.IPPROTO_MPTCP, To: asked6})
	})
}

func (p *wiredPod) needsMPTCP(tb testing.TB) {
	tb.Helper()
	kernel.Require(tb, kernel.MPTCP, kernel.BTF)
}

// handoffsEnv overrides how many connections some tests hand off, where a machine is
// emulated.
const handoffsEnv = "DUOMESH_HANDOFFS"

func TestHandoffWithFastOpen(t *testing.T) {
	for _, server := range []bool{false, true} {
		t.Run(fmt.Sprintf("server %v", server), func(t *testing.T) {
			w := newWired(t)
			client, way := w.enrolled(t, "default/client"), w.pod(t, w.servers, "default/waypoint")
			must(t, w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst))
			client.sysctl(t, "ipv4.tcp_fastopen", "3")
			way.sysctl(t, "ipv4.tcp_fastopen", "3")
			way.serve(t, listenHow{Fast: server})
			services, asked4, asked6 := vips(many, waypointOf(way))
			w.apply(t, intent.Snapshot{Services: services})
			_, _ = w.passed(t, func() {})
			client1, _ := w.passed(t, func() {
				for _, how := range []string{"message", "connect"} {
					for _, to := range families(asked4, asked6) {
						client.wantRight(t, asking{N: 100, Threads: 2, Fast: how, To: to})
					}
				}
			})
			// With a cookie the SYN has room for the id alone.
			if short := client1[intent.Exit(HandoffShort)]; server && short == 0 {
				t.Errorf("no SYN had a cookie of Fast Open: %v", client1)
			}
		})
	}
}

func TestHandoffWithMD5(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.pod(t, w.servers, "default/waypoint")
	must(t, w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst))
	if a := way.do(t, call{Op: "waypoint", Listening: listenHow{MD5: []netip.Addr{client.v6, mappedAddr(client.v4)}}}); a.Errno == unix.ENOPROTOOPT {
		t.Skipf("NOT RUN: the kernel has no TCP_MD5SIG: %v", a.Errno)
	} else if a.Errno != 0 {
		t.Fatalf("listen: %v", a.Errno)
	}
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	w.wantEvents(t, 200, []Event{HandoffShort, HandoffAnswered}, func() {
		client.wantRight(t, asking{N: 100, Threads: 4, MD5: []netip.Addr{way.v4}, To: asked4})
		client.wantRight(t, asking{N: 100, Threads: 4, MD5: []netip.Addr{way.v6}, To: asked6})
	})
}

func mappedAddr(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

func TestHandoffWithoutTimestamps(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	client.sysctl(t, "ipv4.tcp_timestamps", "0")
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	w.wantEvents(t, 200, []Event{HandoffFull, HandoffAnswered}, func() {
		client.wantRight(t, asking{N: 100, Threads: 4, To: asked4})
		client.wantRight(t, asking{N: 100, Threads: 4, To: asked6})
	})
}

// lossy drops one SYN of four on the way to a pod. Another packet that is lost says
// nothing of the hand-off, and may be sent again for longer than a client waits.
func (w *wired) lossy(tb testing.TB, port string) {
	tb.Helper()
	kernel.Require(tb, kernel.TCX)
	const pass, shot = 0, 2 // TC_ACT_OK, TC_ACT_SHOT
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lossy", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1), // what LoadAbs reads from
			asm.LoadAbs(14, asm.Byte), asm.RSh.Imm(asm.R0, 4),
			asm.JEq.Imm(asm.R0, 6, "v6"),
			asm.LoadAbs(14+20+13, asm.Byte), asm.Ja.Label("flags"),
			asm.LoadAbs(14+40+13, asm.Byte).WithSymbol("v6"),
			asm.And.Imm(asm.R0, 0x12).WithSymbol("flags"), // SYN and ACK
			asm.JNE.Imm(asm.R0, 0x02, "pass"),
			asm.FnGetPrandomU32.Call(),
			asm.JLT.Imm32(asm.R0, 0x40000000, "drop"),
			asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"), asm.Return(),
			asm.Mov.Imm(asm.R0, shot).WithSymbol("drop"), asm.Return(),
		},
	})
	must(tb, err)
	tb.Cleanup(func() { prog.Close() })
	iface, err := handleAt(tb, w.hub).LinkByName(port)
	must(tb, err)
	must(tb, kernel.InNetns(w.hub, func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: iface.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			tb.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// A SYN that is sent again has the option again.
func TestHandoffWhenSYNsAreLost(t *testing.T) {
	w := newWired(t)
	client := w.enrolled(t, "default/client")
	port := "port" + itoa(w.next)
	way := w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	w.lossy(t, port)
	w.wantEvents(t, 120, []Event{HandoffFull, HandoffAnswered}, func() {
		client.wantRight(t, asking{N: 120, Threads: 120, To: append(asked4[:25:25], asked6[:25]...)})
	})
}

// A client that says nothing gets no answer of ours: the kernel's own stands.
func TestConnectionsWithoutHandoff(t *testing.T) {
	w := newWired(t)
	stranger, way := w.pod(t, w.clients, "default/stranger"), w.waypoint(t, "default/waypoint", listenHow{})
	managed := w.enrolled(t, "default/managed")
	w.apply(t, intent.Snapshot{})
	for _, p := range []*wiredPod{stranger, managed} {
		for _, a := range []netip.Addr{way.v4, way.v6, mappedAddr(way.v4)} {
			w.wantEvents(t, 10, []Event{HandoffNoAnswer}, func() {
				got := p.ask(t, asking{N: 10, To: []netip.AddrPort{netip.AddrPortFrom(a, handoff.PortOriginalDst)}})
				if got.Wrong != 10 || !strings.Contains(got.Wrongs[0], `"ENOENT ENOENT `) && !strings.Contains(got.Wrongs[0], `"ENOPROTOOPT `) {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// A waypoint that does not listen for hand-offs refuses by itself, and that is counted.
// The socket may connect again: to a waypoint's own address it says nothing of what it
// asked before.
func TestHandoffToNobody(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.pod(t, w.servers, "default/waypoint")
	must(t, w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst))
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	socket := func() int { return client.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD }
	connect := func(fd int, to netip.AddrPort) syscall.Errno {
		return client.do(t, call{Op: "connect", FD: fd, Domain: v4, To: to}).Errno
	}
	fd := socket()
	w.wantEvents(t, 41, []Event{HandoffFull, HandoffUnreached}, func() {
		if got := client.ask(t, asking{N: 40, To: append(asked4[:20:20], asked6[:20]...)}); got.Failed != 40 {
			t.Errorf("%+v", got)
		}
		if errno := connect(fd, asked4[0]); errno != unix.ECONNREFUSED {
			t.Errorf("connect: %v", errno)
		}
	})
	way.serve(t, listenHow{})
	w.wantEvents(t, 1, []Event{HandoffNoAnswer}, func() {
		if errno := connect(fd, netip.AddrPortFrom(way.v4, handoff.PortOriginalDst)); errno != 0 {
			t.Errorf("connect again: %v", errno)
		}
	})
	w.wantEvents(t, 20, []Event{HandoffFull, HandoffAnswered}, func() {
		client.wantRight(t, asking{N: 20, To: asked4})
	})
}

// Ports are used again and again for other addresses.
func TestHandoffOfReusedTuples(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(many, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	n := int(fromEnv(t, handoffsEnv, 300))
	client.wantRight(t, asking{N: n, Port: 40000, To: asked4})
	client.wantRight(t, asking{N: n, Port: 40000, To: asked6})
}

// Address translation on the way changes addresses, not the option. The peer that
// the waypoint sees is the translator.
func TestHandoffThroughNAT(t *testing.T) {
	iptables, err := exec.LookPath("iptables-restore")
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	h := handleAt(t, w.hub)
	bridge, err := h.LinkByName("br0")
	must(t, err)
	gateway := addr("10.77.0.1")
	must(t, h.AddrAdd(bridge, &netlink.Addr{IPNet: netlink.NewIPNet(gateway.AsSlice())}))
	must(t, h.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: prefix(t, "10.77.0.0/24")}))
	must(t, handleAt(t, client.Netns).RouteAdd(&netlink.Route{Dst: prefix(t, "10.88.0.0/16"), Gw: gateway.AsSlice()}))
	must(t, kernel.InNetns(w.hub, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return err
		}
		cmd := exec.Command(iptables)
		cmd.Stdin = strings.NewReader(fmt.Sprintf("*nat\n-A PREROUTING -d 10.88.0.1 -j DNAT --to-destination %s\n"+
			"-A POSTROUTING -d %s -j SNAT --to-source %s\nCOMMIT\n", way.v4, way.v4, gateway))
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}))
	translated := waypointOf()
	translated.Endpoints = []intent.Endpoint{{Workload: workload("translated", "10.88.0.1")}}
	services, asked4, _ := vips(many, translated)
	w.apply(t, intent.Snapshot{Services: services})
	client.wantRight(t, asking{N: 300, Threads: 4, To: asked4, From: []netip.Addr{gateway}})
}

func prefix(tb testing.TB, s string) *net.IPNet {
	tb.Helper()
	n, err := netlink.ParseIPNet(s)
	must(tb, err)
	return n
}

// Both replicas of a waypoint get their share.
func TestHandoffToTwoReplicas(t *testing.T) {
	w := newWired(t)
	client := w.enrolled(t, "default/client")
	one, two := w.waypoint(t, "default/one", listenHow{}), w.waypoint(t, "default/two", listenHow{})
	services, asked4, asked6 := vips(many, waypointOf(one, two))
	w.apply(t, intent.Snapshot{Services: services})
	client.wantRight(t, asking{N: 400, Threads: 4, To: append(asked4[:25:25], asked6[:25]...)})

	// One that leaves while connections are made is asked no more.
	must(t, w.client.Apply(context.Background(), intent.Snapshot{Services: first(vips(many, waypointOf(two)))}))
	none := w.waypointEvents(t, func() { must(t, w.server.StopWaypoint(one.Netns)) })
	if len(none) > 0 {
		t.Errorf("events %v", none)
	}
	w.wantEvents(t, 200, []Event{HandoffFull, HandoffAnswered}, func() {
		client.wantRight(t, asking{N: 200, Threads: 4, To: asked4})
	})
}

func first(services []*intent.Service, _, _ []netip.AddrPort) []*intent.Service { return services }

func (w *wired) waypointEvents(tb testing.TB, f func()) map[intent.Exit]uint64 {
	tb.Helper()
	_, server := w.passed(tb, f)
	return server
}

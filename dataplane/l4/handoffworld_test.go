package l4

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// wired is pods that reach each other over a bridge, on two nodes with an engine
// each: one of clients, one of waypoints.
type wired struct {
	hub              *os.File
	clients, servers *node
	client, server   *Engine
	next             int
}

func newWired(t testing.TB) *wired {
	t.Helper()
	w := &wired{clients: newNode(t), servers: newNode(t), next: 2}
	w.client, w.server = w.clients.open(t, Options{}), w.servers.open(t, Options{})
	var err error
	w.hub, err = kernel.NewNetns()
	must(t, err)
	t.Cleanup(func() { w.hub.Close() })
	h := handleAt(t, w.hub)
	must(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	up(t, h, "br0")
	return w
}

func handleAt(tb testing.TB, ns *os.File) *netlink.Handle {
	tb.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	must(tb, err)
	tb.Cleanup(h.Close)
	return h
}

func up(tb testing.TB, h *netlink.Handle, name string) netlink.Link {
	tb.Helper()
	l, err := h.LinkByName(name)
	must(tb, err)
	must(tb, h.LinkSetUp(l))
	return l
}

// wiredPod has one address of each family, and a process.
type wiredPod struct {
	*pod
	v4, v6 netip.Addr
}

func (w *wired) pod(tb testing.TB, n *node, name string) *wiredPod {
	tb.Helper()
	ns, err := kernel.NewNetns()
	must(tb, err)
	tb.Cleanup(func() { ns.Close() })
	p := &wiredPod{v4: addr("10.77.0." + itoa(w.next)), v6: addr("fd77::" + itoa(w.next))}
	port := "port" + itoa(w.next)
	w.next++
	h, hub := handleAt(tb, ns), handleAt(tb, w.hub)
	must(tb, hub.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}))
	bridge, err := hub.LinkByName("br0")
	must(tb, err)
	must(tb, hub.LinkSetMaster(up(tb, hub, port), bridge))
	must(tb, kernel.InNetns(ns, func() error {
		// An address is usable at once.
		return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0)
	}))
	up(tb, h, "lo")
	eth := up(tb, h, "eth0")
	for _, a := range []string{p.v4.String() + "/24", p.v6.String() + "/64"} {
		ip, err := netlink.ParseIPNet(a)
		must(tb, err)
		must(tb, h.AddrAdd(eth, &netlink.Addr{IPNet: ip}))
	}
	// What is not redirected is answered by nobody, and at once.
	for _, dst := range []string{"10.9.0.0/16", "fd00:9::/64"} {
		_, unreachable, err := net.ParseCIDR(dst)
		must(tb, err)
		must(tb, h.RouteAdd(&netlink.Route{Dst: unreachable, Type: unreachableRoute}))
	}
	cg := makeCgroup(tb, filepath.Join(n.cgroup.Name(), strings.ReplaceAll(name, "/", "-")))
	p.pod = &pod{Pod: Pod{Name: name, Netns: ns, Cgroup: cg}}
	p.child = startChild(tb, ns, cg)
	return p
}

const unreachableRoute = 7 // RTN_UNREACHABLE

// enrolled is a pod of the clients' node.
func (w *wired) enrolled(tb testing.TB, name string) *wiredPod {
	tb.Helper()
	p := w.pod(tb, w.clients, name)
	must(tb, w.client.Enrol(p.Pod))
	return p
}

// waypoint is a pod of the servers' node that is served and listens.
func (w *wired) waypoint(tb testing.TB, name string, how listenHow) *wiredPod {
	tb.Helper()
	p := w.pod(tb, w.servers, name)
	must(tb, w.server.ServeWaypoint(p.Cgroup, p.Netns, handoff.PortOriginalDst))
	p.serve(tb, how)
	return p
}

// apply gives both nodes the same state.
func (w *wired) apply(tb testing.TB, s intent.Snapshot) {
	tb.Helper()
	must(tb, w.server.Apply(context.Background(), s))
	must(tb, w.client.Apply(context.Background(), s))
}

func waypointOf(pods ...*wiredPod) *intent.Waypoint {
	w := &intent.Waypoint{Name: "default/waypoint", Codec: intent.OriginalDst, Port: handoff.PortOriginalDst}
	for _, p := range pods {
		w.Endpoints = append(w.Endpoints, intent.Endpoint{Workload: workload(p.Name, p.v4.String(), p.v6.String())})
	}
	return w
}

// vips are services with a waypoint, n addresses of each family at as many ports as
// there is reason to mix up.
func vips(n int, w *intent.Waypoint) (all []*intent.Service, asked4, asked6 []netip.AddrPort) {
	for i := range n {
		port := uint16(80 + i%7)
		a, b := "10.9."+itoa(i/250)+"."+itoa(i%250+1), "fd00:9::"+itoa(i+1)
		svc := service("s"+itoa(i), []string{a, b}, []uint16{port})
		svc.Waypoint = w
		all = append(all, svc)
		asked4 = append(asked4, netip.AddrPortFrom(addr(a), port))
		asked6 = append(asked6, netip.AddrPortFrom(addr(b), port))
	}
	return all, asked4, asked6
}

// mapped are the same addresses for a socket of the other family.
func mapped(all []netip.AddrPort) []netip.AddrPort {
	var m []netip.AddrPort
	for _, a := range all {
		m = append(m, netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port()))
	}
	return m
}

package ambient

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// space is an empty network namespace with lo up.
func space(t *testing.T) *os.File {
	t.Helper()
	kernel.Require(t, kernel.Root)
	ns, err := kernel.NewNetns()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	if err := nl.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback}}); err != nil {
		t.Fatal(err)
	}
	return ns
}

// TestRulesAreInTheKernel reads every rule back and compares.
func TestRulesAreInTheKernel(t *testing.T) {
	ns := space(t)
	for range 2 { // the second call replaces
		if err := Capture(ns); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables() {
		for chain, want := range map[string][]rule{preroutingChain: table.prerouting, outputChain: table.output} {
			got, err := conn.GetRules(table.table(), &nftables.Chain{Name: chain, Table: table.table()})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%s %s: %d rules, want %d", table.name, chain, len(got), len(want))
			}
			for i := range got {
				if diff := cmp.Diff(plain(want[i]), plain(got[i].Exprs)); diff != "" {
					t.Errorf("%s %s rule %d: %s", table.name, chain, i+1, diff)
				}
			}
		}
	}
}

// plain takes out what the kernel adds, counts, and what the library does not
// read back, the register that a ct expression sets from: the nft command sees it.
func plain(exprs rule) rule {
	all := slices.Clone(exprs)
	for i, e := range all {
		switch e := e.(type) {
		case *expr.Counter:
			all[i] = &expr.Counter{}
		case *expr.Ct:
			if e.SourceRegister {
				all[i] = &expr.Ct{Key: e.Key}
			}
		}
	}
	return all
}

// TestRulesAsNftSaysThem compares with what the nft command reads from the kernel.
func TestRulesAsNftSaysThem(t *testing.T) {
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("NOT RUN: the nft command is not installed")
	}
	ns := space(t)
	if err := Capture(ns); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, "-s", "-n", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := kernel.InNetns(ns, cmd.Run); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	golden := filepath.Join("testdata", "inpod.nft")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestRedirectHappens: a connection to an address that is nowhere comes to port
// 15001; one with the proxy's mark does not, and none does without the rules.
func TestRedirectHappens(t *testing.T) {
	ns := space(t)
	nowhere := "10.96.0.1:80"
	route(t, ns)
	listener := listenAt(t, ns, "127.0.0.1:15001")
	if err := dial(ns, nowhere, 0); err == nil {
		t.Fatal("connected without the rules")
	}
	if err := Capture(ns); err != nil {
		t.Fatal(err)
	}
	if err := dial(ns, nowhere, 0); err != nil {
		t.Fatalf("not redirected: %v", err)
	}
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := dial(ns, nowhere, ProxyMark); err == nil {
		t.Error("the proxy's own connection was redirected")
	}
	if err := Release(ns); err != nil {
		t.Fatal(err)
	}
	if err := Release(ns); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := dial(ns, nowhere, 0); err == nil {
		t.Error("redirected after the rules were removed")
	}
}

// route leads a network out of the namespace, to another in which nobody listens:
// what is not redirected is refused at once.
func route(t *testing.T, ns *os.File) {
	t.Helper()
	far := space(t)
	near, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	v := netlink.NewVeth(netlink.LinkAttrs{Name: "eth0"})
	v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(far.Fd())
	if err := near.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	there, err := netlink.NewHandleAt(netns.NsHandle(far.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	ends := []*netlink.Handle{near, there}
	for i, address := range []string{"10.0.0.1/16", "10.96.0.1/16"} {
		link, err := ends[i].LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		other := &net.IPNet{IP: net.IPv4(10, byte(96*(1-i)), 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
		if err := errors.Join(
			ends[i].AddrAdd(link, addr), ends[i].LinkSetUp(link),
			ends[i].RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: other, Scope: netlink.SCOPE_LINK}),
		); err != nil {
			t.Fatal(err)
		}
	}
}

func listenAt(t *testing.T, ns *os.File, address string) net.Listener {
	t.Helper()
	var l net.Listener
	err := kernel.InNetns(ns, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(ns *os.File, address string, mark int) error {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if mark == 0 {
			return nil
		}
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) }); e != nil {
			return e
		}
		return err
	}}
	return kernel.InNetns(ns, func() error {
		c, err := d.Dial("tcp4", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func TestErrorNamesTheRules(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Capture(f); err == nil || !strings.Contains(err.Error(), "nftables") && !strings.Contains(err.Error(), "rules") {
		t.Errorf("%v", err)
	}
}

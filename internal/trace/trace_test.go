package trace

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// pod is a namespace with a loopback interface and a server.
type pod struct {
	tb     testing.TB
	ns     *os.File
	server net.Listener
}

func newPod(tb testing.TB) *pod {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.BPF, kernel.BTF)
	ns, err := kernel.NewNetns()
	must(tb, err)
	tb.Cleanup(func() { ns.Close() })
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()))
	must(tb, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	must(tb, err)
	must(tb, h.LinkSetUp(lo))
	p := &pod{tb: tb, ns: ns}
	must(tb, kernel.InNetns(ns, func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		p.server, err = c.Listen(context.Background(), "tcp4", "127.0.0.1:0")
		return err
	}))
	tb.Cleanup(func() { p.server.Close() })
	return p
}

func (p *pod) target() probe.Target { return probe.Target{Pod: "pod", Netns: p.ns} }

func (p *pod) address() netip.AddrPort { return netip.MustParseAddrPort(p.server.Addr().String()) }

// visit connects to an address of the pod within a while, and accepts where it is
// the server's.
func (p *pod) visit(to netip.AddrPort) error {
	p.tb.Helper()
	return kernel.InNetns(p.ns, func() error {
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		d.SetMultipathTCP(false)
		c, err := d.Dial("tcp4", to.String())
		if err != nil {
			return err
		}
		if accepted, err := p.server.Accept(); err == nil {
			accepted.Close()
		}
		return c.Close()
	})
}

func (p *pod) open(o Options) *Trace {
	p.tb.Helper()
	t, err := Open([]probe.Target{p.target()}, o)
	must(p.tb, err)
	p.tb.Cleanup(func() { must(p.tb, t.Close()) })
	return t
}

// The ways on a kernel, each by its feature.
var features = map[string]kernel.Feature{
	"kprobe.multi": kernel.KprobeMulti, "kprobe": kernel.Kprobe, "fentry": kernel.Fentry,
}

// One connect names the functions that it passes, in order, at both ends, by each
// way to stand at them.
func TestStackOfOneConnect(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			kernel.Require(t, features[w.name])
			p := newPod(t)
			judge, err := probe.Open(t.Context(), []probe.Target{p.target()}, probe.Options{})
			must(t, err)
			t.Cleanup(func() { must(t, judge.Close()) })
			tr := p.open(Options{Stack: true, ways: []way{w}})
			for range 3 {
				must(t, p.visit(p.address()))
			}
			l, err := judge.Settle(t.Context())
			must(t, err)
			want := map[probe.Role][]string{
				probe.RoleActive:  {"__inet_stream_connect", "tcp_v4_connect", "tcp_connect", "ip_queue_xmit", "tcp_v4_rcv", "tcp_finish_connect"},
				probe.RolePassive: {"tcp_v4_rcv", "tcp_conn_request", "tcp_v4_syn_recv_sock", "inet_csk_accept"},
			}
			if len(l.Lines) != 6 {
				t.Fatalf("%d lines, want 6", len(l.Lines))
			}
			told := 0
			for _, line := range l.Lines {
				calls, err := tr.Calls(line)
				must(t, err)
				told += len(calls)
				if got := names(calls); !slices.Equal(got, want[line.Role]) {
					t.Errorf("%s: %v\nwant %v\nleft: %v", line.Role, got, want[line.Role], tr.Left)
				}
				again, err := tr.Calls(line)
				must(t, err)
				if len(again) > 0 {
					t.Errorf("told twice: %v", names(again))
				}
			}
			t.Logf("provider %s fired: %d events", tr.By["stack"], told)
		})
	}
}

func names(calls []Call) []string {
	var all []string
	for _, c := range calls {
		all = append(all, c.Function)
	}
	return all
}

// Calls are counted by function; who does not run is not counted.
func TestFunctionsAreCounted(t *testing.T) {
	// Once: the list takes an emulated kernel long.
	choose := sync.OnceValues(func() (Chosen, error) { return Choose([]string{"tcp_v4_connec?", "tcp_v6_connect"}) })
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			kernel.Require(t, features[w.name])
			p := newPod(t)
			c, err := choose()
			must(t, err)
			if !slices.Equal(c.Names, []string{"tcp_v4_connect", "tcp_v6_connect"}) {
				t.Fatalf("chose %+v", c)
			}
			tr := p.open(Options{Functions: c.Names, ways: []way{w}})
			for range 5 {
				must(t, p.visit(p.address()))
			}
			counts, err := tr.Counts()
			must(t, err)
			if len(tr.Left) > 0 {
				t.Errorf("left out: %v", tr.Left)
			}
			if counts[0].Function != "tcp_v4_connect" || counts[0].Watched != 5 || counts[1].Watched != 0 {
				t.Errorf("%+v, want 5 calls of tcp_v4_connect in watched tasks and none of the other", counts)
			}
			t.Logf("provider %s fired: %d events", tr.By["functions"], counts[0].Calls)
		})
	}
}

// A kernel without kprobes is refused by name, and nothing is left behind.
func TestNoFunctions(t *testing.T) {
	var none *NoFunctionsError
	err := Check()
	if err == nil {
		// This kernel has them: let it have no way.
		p := newPod(t)
		_, err = Open([]probe.Target{p.target()}, Options{Stack: true, ways: []way{}})
	} else {
		kernel.Require(t, kernel.Root, kernel.BPF)
	}
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "no kprobes") {
		t.Errorf("got %v", err)
	}
}

// A packet that nobody listens for is thrown away for that reason, in the pod, and
// with the addresses of its connection.
func TestDropNobodyListens(t *testing.T) {
	p := newPod(t)
	tr := p.open(Options{Drops: true})
	to := netip.AddrPortFrom(p.address().Addr(), 9)
	if err := p.visit(to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v", err)
	}
	p.dropped(tr, to, "NO_SOCKET")
}

// A rule throws away, or refuses, and the kernel says so; without a rule nothing is
// said of the connection.
func TestDropByRule(t *testing.T) {
	for name, verdict := range map[string]expr.Any{
		"drop":   &expr.Verdict{Kind: expr.VerdictDrop},
		"reject": &expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			tr := p.open(Options{Drops: true})
			must(t, p.visit(p.address()))
			if got := p.drops(tr, p.address(), "NETFILTER_DROP"); len(got) > 0 {
				t.Fatalf("without a rule: %+v", got)
			}
			p.rule(verdict)
			if err := p.visit(p.address()); err == nil {
				t.Fatal("the rule lets the connection pass")
			}
			p.dropped(tr, p.address(), "NETFILTER_DROP")
		})
	}
}

// rule applies a verdict to all TCP that comes in.
func (p *pod) rule(verdict expr.Any) {
	p.tb.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(p.ns.Fd())))
	must(p.tb, err)
	table := c.AddTable(&nftables.Table{Name: "t", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{
		Name: "in", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		verdict,
	}})
	must(p.tb, c.Flush())
}

// drops are those of packets to an address, for a reason. A socket that is closed
// throws away what it has, so there are others.
func (p *pod) drops(tr *Trace, to netip.AddrPort, reason string) []DropCount {
	p.tb.Helper()
	all, err := tr.Drops()
	must(p.tb, err)
	return slices.DeleteFunc(all, func(d DropCount) bool { return d.Dst != to || d.Reason != reason })
}

func (p *pod) dropped(tr *Trace, to netip.AddrPort, reason string) {
	p.tb.Helper()
	got := p.drops(tr, to, reason)
	if len(got) != 1 || got[0].Pod != "pod" || got[0].Packets < 1 ||
		got[0].Protocol != unix.IPPROTO_TCP || got[0].Src.Addr() != to.Addr() || got[0].Src.Port() == 0 {
		p.tb.Errorf("%+v, want packets to %s thrown away for %s", got, to, reason)
	}
	if len(got) > 0 {
		p.tb.Logf("provider %s fired: %d events", tr.By["drops"], got[0].Packets)
	}
}

// A pod that nobody watches has no drops to tell of.
func TestDropsOfOthersAreNotTold(t *testing.T) {
	watched, other := newPod(t), newPod(t)
	tr := watched.open(Options{Drops: true})
	to := netip.AddrPortFrom(other.address().Addr(), 9)
	if err := other.visit(to); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v", err)
	}
	if got := watched.drops(tr, to, "NO_SOCKET"); len(got) > 0 {
		t.Errorf("told of another's: %+v", got)
	}
}

package probe

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// openWith opens a probe with chosen sensors in place of those of the same kinds.
func (g *ground) openWith(targets []Target, replaced ...ladder) *Probe {
	g.tb.Helper()
	// A second probe comes after the first; that one changes nothing.
	o, err := Options{AllowLate: true}.normalize()
	must(g.tb, err)
	all := ladders(o)
	for _, r := range replaced {
		for i, l := range all {
			if slices.Equal(l.kinds, r.kinds) {
				all[i] = r
			}
		}
	}
	p, err := open(g.tb.Context(), targets, o, all)
	must(g.tb, err)
	g.tb.Cleanup(func() { must(g.tb, p.Close()) })
	return p
}

// comparable leaves of a ledger what every provider defines: not the time, and
// not the cookie of accepted sockets, which a raw tracepoint cannot make.
func comparable(l Ledger) []Line {
	lines := slices.Clone(l.Lines)
	for i := range lines {
		n := &lines[i]
		n.AskedAt, n.SynSentAt, n.EstablishedAt, n.ReleasedAt, n.ClosedAt = 0, 0, 0, 0, 0
		for j := range n.Wire {
			n.Wire[j].At = 0
		}
		if n.Role == RolePassive {
			n.Cookie = 0
		}
	}
	return lines
}

// tcpOut leaves out what the kernel sends by itself meanwhile.
func tcpOut(l Ledger) []WireCount {
	return slices.DeleteFunc(slices.Clone(l.Wire), func(w WireCount) bool {
		return w.Protocol != unix.IPPROTO_TCP || w.Direction != Out
	})
}

// busy is traffic of every kind of ending, over both families.
func (g *ground) busy() {
	for _, steps := range [][]step{
		visit(at(vip4, vipPort)), visit(at(vip6, vipPort)), visit(at(mapped(vip4), vipPort)),
		visit(at(server4, deadPort)),
		{{Do: "socket4"}, {Do: "connect", To: at(server4, realPort)}, {Do: "reset"}},
		{
			{Do: "socket6"}, {Do: "connect", To: at(server6, deadPort)},
			{Do: "connect", To: at(server6, realPort)}, {Do: "close"},
		},
		{{Do: "socket4"}, {Do: "fastopen", To: at(vip4, vipPort)}, {Do: "close"}},
	} {
		g.run(steps)
	}
}

// alone is a ladder of one rung.
func alone(s sensor, kinds ...Kind) ladder { return ladder{kinds: kinds, sensors: []sensor{s}} }

// Two probes with different providers watch the same traffic and write the same
// ledger.
func TestProvidersAgree(t *testing.T) {
	kernel.Require(t, kernel.BTF)
	state := func(s sensor) ladder { return alone(s, SynSent, Established, Closed) }
	asked := func(s sensor) ladder { return alone(s, Asked) }
	for name, c := range map[string]struct{ a, b ladder }{
		"state/raw_tp":         {state(&stateBTF{}), state(&stateRaw{})},
		"state/fentry":         {state(&stateBTF{}), state(&stateFentry{})},
		"state/kprobe":         {state(&stateBTF{}), state(&stateKprobe{})},
		"state/kprobe.multi":   {state(&stateBTF{}), state(&stateMulti{})},
		"asked/syscall":        {asked(&cgroupAsked{}), asked(&syscallAsked{})},
		"asked/fentry":         {asked(&cgroupAsked{}), asked(&connectFentry{})},
		"asked/kprobe":         {asked(&cgroupAsked{}), asked(&connectKprobe{})},
		"asked/kprobe.multi":   {asked(&cgroupAsked{}), asked(&connectMulti{})},
		"wire/clsact":          {alone(&tcxWire{}, WireSyn), alone(&filterWire{}, WireSyn)},
		"wire/clsact beside":   {alone(&filterWire{}, WireSyn), alone(&filterWire{}, WireSyn)},
		"state/fentry, kprobe": {state(&stateFentry{}), state(&stateKprobe{})},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			g.rewriter()
			g.listen(realPort)
			targets := []Target{g.clientTarget(), g.serverTarget()}
			a, b := g.openWith(targets, c.a), g.openWith(targets, c.b)
			for _, side := range []struct {
				p *Probe
				l ladder
			}{{a, c.a}, {b, c.b}} {
				if got := side.p.Providers()[side.l.kinds[0]]; got.Name == "" {
					t.Skipf("NOT RUN: %s: %s", side.l.sensors[0].Name(), got)
				}
			}
			g.busy()
			la, lb := settle(t, a), settle(t, b)
			lossless(t, la)
			lossless(t, lb)
			if len(la.Lines) != 8+6 {
				t.Errorf("%d lines, want 8 of the client and 6 of the server", len(la.Lines))
			}
			want, got := comparable(la), comparable(lb)
			if name == "asked/syscall" {
				// connect(2) was not called where the data asked.
				fast := unasked(got)
				if len(fast) != 1 {
					t.Fatalf("%d lines of which connect(2) did not tell what was asked, want that of Fast Open", len(fast))
				}
				want[fast[0]].Asked = netip.AddrPort{}
			}
			same(t, got, want)
			same(t, tcpOut(lb), tcpOut(la))
			if na, nb := fired(t, la, c.a), fired(t, lb, c.b); na != nb && name != "asked/syscall" {
				// A second copy that says again what the first one said is not seen in
				// the ledger, and would hide what both have missed.
				t.Errorf("%d events by one provider, %d by the other", na, nb)
			}
		})
	}
}

// unasked lists the active lines of which it is unknown what was asked.
func unasked(lines []Line) []int {
	var all []int
	for i, l := range lines {
		if l.Role == RoleActive && !l.Asked.IsValid() {
			all = append(all, i)
		}
	}
	return all
}

// fired fails where a provider's programs reported nothing: then two ledgers that
// are equal say nothing of it.
func fired(t *testing.T, l Ledger, by ladder) uint64 {
	t.Helper()
	n := uint64(0)
	for _, k := range by.kinds {
		if l.Events[k] == 0 {
			t.Errorf("provider %s fired no event %s", by.sensors[0].Name(), k)
		}
		n += l.Events[k]
	}
	t.Logf("provider %s fired: %d events", by.sensors[0].Name(), n)
	return n
}

// Without its link both ends of the client still tell the same story, but for the
// SYNs: those of the host's end alone find their connection by address.
func TestHostEndAlone(t *testing.T) {
	g := newGround(t)
	g.rewriter()
	g.listen(realPort)
	target := g.clientTarget()
	target.Links = g.links[1:]
	p, err := Open(t.Context(), []Target{target}, Options{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	g.run(times(20, visit(at(vip4, vipPort))))
	g.run(times(20, visit(at(server4, deadPort))))
	l := settle(t, p)
	lossless(t, l)
	if len(l.Lines) != 40 || len(l.Stray) != 0 {
		t.Fatalf("%d lines, %d stray SYNs; want 40 and none", len(l.Lines), len(l.Stray))
	}
	for _, n := range l.Lines {
		if dst := n.WireDst(SideHost); len(dst) != 1 || dst[0] != n.Peer || len(n.Wire) != 1 {
			t.Errorf("SYNs of %+v", n)
		}
	}
}

// fake is a sensor that fails as it is told.
type fake struct {
	name           string
	fails          error
	opened, closed bool
}

func (f *fake) Name() string                  { return f.name }
func (f *fake) Open(*objects, Target) error   { f.opened = true; return f.fails }
func (*fake) Watch(Target) (io.Closer, error) { return nil, nil }
func (*fake) Missed() (uint64, error)         { return 0, nil }
func (f *fake) Close() error                  { f.closed = true; return nil }

func TestLadder(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("load programs: %w", err) }
	for _, missing := range []error{
		unix.EPERM, os.ErrNotExist, unix.EOPNOTSUPP, ebpf.ErrNotSupported, kernel.ErrNoCgroup2,
	} {
		better, works, worse := &fake{name: "better", fails: wrapped(missing)}, &fake{name: "works"}, &fake{name: "worse"}
		s, p, err := ladder{sensors: []sensor{better, works, worse}}.climb(nil, Target{})
		if err != nil || s != works || p.Name != "works" || worse.opened {
			t.Errorf("%v: got %v, %v, %v", missing, s, p, err)
		}
		if len(p.PassedOver) != 1 || !strings.HasPrefix(p.PassedOver[0], "better: ") {
			t.Errorf("%v: passed over %q", missing, p.PassedOver)
		}
	}
}

func TestLadderFault(t *testing.T) {
	fault := errors.New("invalid argument")
	l := ladder{kinds: []Kind{Asked}, sensors: []sensor{&fake{name: "bad", fails: fault}, &fake{name: "good"}}}
	if _, _, err := l.climb(nil, Target{}); !errors.Is(err, fault) || !strings.Contains(err.Error(), "bad") {
		t.Errorf("got %v, want the fault, by name", err)
	}
	kernel.Require(t, kernel.Root, kernel.BPF)
	o, err := Options{}.normalize()
	must(t, err)
	before := &fake{name: "before"}
	_, err = open(t.Context(), nil, o, []ladder{{sensors: []sensor{before}}, l})
	if !errors.Is(err, fault) || !before.closed {
		t.Errorf("Open: %v, closed what it opened: %v", err, before.closed)
	}
}

func TestLadderWithoutARung(t *testing.T) {
	none := []sensor{&fake{name: "a", fails: unix.EPERM}}
	s, p, err := ladder{kinds: []Kind{Asked}, sensors: none}.climb(nil, Target{})
	if s != nil || err != nil || p.Name != "" || !strings.Contains(p.String(), "none (not: a: operation not permitted)") {
		t.Errorf("got %v, %q, %v", s, p, err)
	}
	if _, _, err := (ladder{kinds: []Kind{Closed}, sensors: none, need: true}).climb(nil, Target{}); err == nil {
		t.Error("the judge opens blind")
	}
}

// What applications ask for is unknown without its provider, never a guess.
func TestAskedUnknown(t *testing.T) {
	g := newGround(t)
	g.rewriter()
	g.listen(realPort)
	p := g.openWith([]Target{g.clientTarget()}, ladder{
		kinds: []Kind{Asked}, sensors: []sensor{&fake{name: "cgroup/connect", fails: unix.EPERM}},
	})
	g.run(visit(at(vip4, vipPort)))
	l := settle(t, p)
	lossless(t, l)
	got := only(t, l, "client", RoleActive)
	if got.Asked.IsValid() || got.Peer != at(server4, realPort) || l.Providers[Asked].Name != "" {
		t.Errorf("line %+v, provider %s", got, l.Providers[Asked])
	}
}

func TestProgramsBeforeTheObserver(t *testing.T) {
	g := newGround(t)
	g.rewriter() // on the parent: runs after a program of the leaf
	p := g.open(Options{})
	must(t, p.Remove("client"))
	leaf := g.leaf
	g.parent, leaf = leaf, g.parent
	g.rewriter() // on the leaf itself, before the observer
	g.parent = leaf
	var order *OrderError
	err := p.Add(g.clientTarget())
	if !errors.As(err, &order) || len(order.Before) == 0 || !strings.HasPrefix(order.Before[0], "test_rewrite (") {
		t.Fatalf("got %v, want the program by name", err)
	}
	if err := p.Add(Target{Pod: "client", Netns: g.client}); err != nil {
		t.Errorf("a refused pod left something behind: %v", err)
	}
	late := g.open(Options{AllowLate: true})
	if late == nil {
		t.Error("AllowLate does not go on")
	}
}

func TestNestedCgroups(t *testing.T) {
	g := newGround(t)
	p, err := Open(t.Context(), []Target{{Pod: "a", Netns: g.client, Cgroup: g.leaf}}, Options{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	err = p.Add(Target{Pod: "b", Netns: g.server, Cgroup: g.parent})
	if err == nil || !strings.Contains(err.Error(), "seen twice") {
		t.Errorf("got %v, want a refusal", err)
	}
	must(t, p.Add(Target{Pod: "c", Netns: g.server, Cgroup: g.leaf})) // shared is fine
	must(t, p.Remove("a"))
	must(t, p.Remove("c"))
	must(t, p.Add(Target{Pod: "b", Netns: g.server, Cgroup: g.parent}))
}

func TestBadTargets(t *testing.T) {
	g := newGround(t)
	for want, target := range map[string]Target{
		"it has no name":             {Netns: g.client},
		"no network namespace":       {Pod: "x"},
		"link 3 has no network":      {Pod: "x", Netns: g.client, Links: []Link{{Ifindex: 3}}},
		"must be positive":           {Pod: "x", Netns: g.client, Links: []Link{{Netns: g.client}}},
		`side "left" of interface 1`: {Pod: "x", Netns: g.client, Links: []Link{{g.client, 1, "left"}}},
		"to interface 4711":          {Pod: "x", Netns: g.client, Links: []Link{{g.client, 4711, SidePod}}},
	} {
		p, err := Open(t.Context(), []Target{target}, Options{})
		if err == nil {
			must(t, p.Close())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for _, o := range []Options{{RingBytes: 5000}, {RingBytes: 16}, {Poll: -1}} {
		if _, err := Open(t.Context(), nil, o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

package probe

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// What others detach of the judge is found out, for each hook, and stays known
// when the pod is no longer watched; what nobody touched is not accused.
func TestDetachedFromOutside(t *testing.T) {
	for hook, detach := range map[string]func(*testing.T, *ground, *Probe){
		"":                      func(*testing.T, *ground, *Probe) {},
		"CGroupInet4Connect":    func(t *testing.T, _ *ground, p *Probe) { detachLink(t, p, "CGroupInet4Connect") },
		"CgroupInetSockRelease": func(t *testing.T, _ *ground, p *Probe) { detachLink(t, p, "CgroupInetSockRelease") },
		"TCXIngress":            func(t *testing.T, _ *ground, p *Probe) { detachLink(t, p, "TCXIngress") },
		"replaced":              replaceLink,
	} {
		t.Run("by "+hook, func(t *testing.T) {
			g := newGround(t)
			p := g.open(Options{})
			if hook != "" && !attached(p, hook) {
				t.Skipf("NOT RUN: %s", p.Providers()[WireSyn])
			}
			detach(t, g, p)
			for range 2 {
				l, err := p.Ledger(t.Context())
				must(t, err)
				wantDetached(t, l.Lost, hook)
				if p.pods["client"] != nil {
					must(t, p.Remove("client"))
				}
			}
		})
	}
}

// The same for traffic control filters.
func TestFilterTakenAway(t *testing.T) {
	g := newGround(t)
	p, err := open(t.Context(), []Target{g.clientTarget()}, must1(Options{}.normalize())(t), []ladder{
		{kinds: []Kind{WireSyn}, sensors: []sensor{&filterWire{}}, need: true},
	})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	l, err := p.Ledger(t.Context())
	must(t, err)
	wantDetached(t, l.Lost, "")
	h, err := netlink.NewHandleAt(netns.NsHandle(g.client.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	defer h.Close()
	on := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: g.links[0].Ifindex}}
	filters, err := h.FilterList(on, netlink.HANDLE_MIN_EGRESS)
	must(t, err)
	for _, f := range filters {
		must(t, h.FilterDel(f))
	}
	l, err = p.Ledger(t.Context())
	must(t, err)
	wantDetached(t, l.Lost, "the egress filter")
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		must(tb, err)
		return v
	}
}

func wantDetached(t *testing.T, l Lost, hook string) {
	t.Helper()
	if hook == "" {
		if l.Total() != 0 {
			t.Errorf("%s; want nothing", l)
		}
		return
	}
	if l.Total() == 0 || !slices.ContainsFunc(l.Detached, func(s string) bool {
		return strings.HasPrefix(s, "client: ") && strings.Contains(s, hook)
	}) || !strings.Contains(l.String(), hook) {
		t.Errorf("%s; want %s missing", l, hook)
	}
}

// allHeld lists the links of a pod.
func allHeld(p *Probe, pod string) []held {
	var all []held
	var walk func(c closers)
	walk = func(c closers) {
		for _, x := range c {
			switch x := x.(type) {
			case held:
				all = append(all, x)
			case *closers:
				walk(*x)
			case *cgroupUse:
				walk(x.set.held[x.id].links)
			}
		}
	}
	walk(p.pods[pod].links)
	return all
}

func attached(p *Probe, hook string) bool {
	return hook == "replaced" || slices.ContainsFunc(allHeld(p, "client"), func(h held) bool {
		return strings.Contains(h.hook, hook)
	})
}

// detachLink does what `bpftool link detach` does.
func detachLink(t *testing.T, p *Probe, hook string) {
	for _, h := range allHeld(p, "client") {
		if strings.Contains(h.hook, hook) {
			byOther(t, h, func(l link.Link) { must(t, l.Detach()) })
		}
	}
}

// replaceLink puts another program of the same kind behind the link.
func replaceLink(t *testing.T, _ *ground, p *Probe) {
	for _, h := range allHeld(p, "client") {
		if !strings.Contains(h.hook, "CGroupInet4Connect") {
			continue
		}
		idle, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		must(t, err)
		defer idle.Close()
		byOther(t, h, func(l link.Link) { must(t, l.Update(idle)) })
	}
}

// byOther opens a link as another process would.
func byOther(t *testing.T, h held, do func(link.Link)) {
	t.Helper()
	info, err := h.Info()
	must(t, err)
	l, err := link.NewFromID(info.ID)
	must(t, err)
	defer l.Close()
	do(l)
}

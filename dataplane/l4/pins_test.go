package l4

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// bpffs mounts a BPF file system of the test's own.
func bpffs(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	must(tb, unix.Mount("none", dir, "bpf", 0, ""))
	tb.Cleanup(func() { must(tb, unix.Unmount(dir, 0)) })
	return dir
}

func (n *node) pinned(dir string) Host {
	h := n.host()
	h.BPFFS = dir
	return h
}

func mustOpen(tb testing.TB, h Host, o Options) *Engine {
	tb.Helper()
	e, err := Open(h, o)
	must(tb, err)
	return e
}

// hammering runs f while 8 threads connect, and returns what came of it.
func (p *pod) hammering(tb testing.TB, to []string, f func()) []tally {
	tb.Helper()
	q := call{Op: "hammer", N: 8}
	for _, a := range to {
		q.All = append(q.All, addrPort(a))
	}
	p.do(tb, q)
	f()
	return p.do(tb, call{Op: "halt"}).Tally
}

// badly returns the connections that failed, and those that went to a peer
// which allowed does not hold for the asked address.
func badly(all []tally, allowed map[string][]string) (refused, misrouted, total int) {
	for _, t := range all {
		total += t.N
		switch {
		case t.Errno != 0:
			refused += t.N
		case !slices.Contains(allowed[t.Asked.String()], t.Peer.String()):
			misrouted += t.N
		}
	}
	return refused, misrouted, total
}

func TestTakeOverUnderTraffic(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	a, b := workload("a", "10.1.0.1"), workload("b", "10.1.0.2")
	vip := "10.9.0.1:80"

	first := mustOpen(t, h, Options{HidePeer: true})
	apply(t, first, service("web", []string{"10.9.0.1"}, []uint16{80}, a))
	must(t, first.Enrol(p.Pod))
	var second *Engine
	all := p.hammering(t, []string{vip}, func() {
		must(t, first.Close())
		must(t, eventually(func() error { return connected(t, p, vip, "10.1.0.1:7001") }))
		second = mustOpen(t, h, Options{HidePeer: true})
		must(t, connected(t, p, vip, "10.1.0.1:7001")) // before any Apply
		apply(t, second, service("web", []string{"10.9.0.1"}, []uint16{80}, b))
		must(t, connected(t, p, vip, "10.1.0.2:7001"))
	})
	refused, misrouted, total := badly(all, map[string][]string{vip: {"10.1.0.1:7001", "10.1.0.2:7001"}})
	t.Logf("%d connections while the engine was replaced", total)
	if refused+misrouted > 0 || total < 100 {
		t.Errorf("refused %d, misrouted %d of %d: %v", refused, misrouted, total, all)
	}
	audited(t, second)
	if used := usageOf(t, second, meshMapSlots).Used; used != 1 {
		t.Errorf("%d slots in use after the take-over, want 1", used)
	}
	must(t, second.Remove())
	if a := p.dial(t, v4, addrPort(vip)); a.Peer != addrPort(vip) {
		t.Errorf("after Remove: peer %v, %v; want the address itself", a.Peer, a.Errno)
	}
	if _, err := os.Stat(filepath.Join(h.BPFFS, "duomesh")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove left the directory of pins: %v", err)
	}
}

func connected(t *testing.T, p *pod, to, want string) error {
	t.Helper()
	// The pod's child is one process: a dial goes through the same decision
	// as the threads that hammer.
	if a := p.dial(t, v4, addrPort(to)); a.Errno != 0 || a.Peer != addrPort(want) {
		return errors.New(to + " reached " + a.Peer.String() + ", " + a.Errno.Error())
	}
	return nil
}

func TestTakeOverKeepsAskedAddresses(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	e := mustOpen(t, h, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	p.connect(t, fd, "10.9.0.1:80", 0)
	must(t, e.Close())
	p.wantPeer(t, fd, "10.9.0.1:80")
	e = mustOpen(t, h, Options{})
	p.wantPeer(t, fd, "10.9.0.1:80")
	must(t, e.Close())
	// Without KeepPeer nothing is answered any more, also for older sockets.
	e = mustOpen(t, h, Options{HidePeer: true})
	p.wantPeer(t, fd, "10.1.0.1:7001")
	p.do(t, call{Op: "close", FD: fd})
	must(t, e.Remove())
}

func TestTwoEnginesAreRefused(t *testing.T) {
	n := newNode(t)
	h := n.pinned(bpffs(t))
	e := mustOpen(t, h, Options{})
	for name, other := range map[string]Host{
		"the same pins":   h,
		"no pins":         n.host(),
		"pins of its own": n.pinned(bpffs(t)),
	} {
		second, err := Open(other, Options{})
		if err == nil {
			second.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "another engine") {
			t.Errorf("%s: %v", name, err)
		}
	}
	left, err := os.ReadDir(filepath.Join(h.BPFFS, "duomesh", abiDir))
	must(t, err)
	if len(left) == 0 {
		t.Error("the refused engine removed the pins of the first")
	}
	must(t, e.Remove())
}

func TestForeignABIIsRefusedAndLeft(t *testing.T) {
	n := newNode(t)
	h := n.pinned(bpffs(t))
	foreign := filepath.Join(h.BPFFS, "duomesh", "abi-999")
	must(t, os.MkdirAll(foreign, 0o700))
	_, err := Open(h, Options{})
	var refused PinError
	if !errors.As(err, &refused) || refused.Path != foreign {
		t.Errorf("got %v, want a refusal of %s", err, foreign)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("the foreign state is gone: %v", err)
	}
	must(t, os.Remove(foreign))
	must(t, mustOpen(t, h, Options{}).Remove())
}

func TestPartOfThePins(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	dir := filepath.Join(h.BPFFS, "duomesh", abiDir)
	start := func() {
		e := mustOpen(t, h, Options{HidePeer: true})
		apply(t, e, decisions()...)
		must(t, e.Enrol(p.Pod))
		must(t, e.Close())
	}
	start()

	t.Run("a missing link is attached anew", func(t *testing.T) {
		must(t, os.Remove(filepath.Join(dir, "link_"+meshProgMeshConnect4)))
		// The kernel ends a link some time after its last reference is gone.
		must(t, eventually(func() error { return connected(t, p, "10.9.0.1:80", "10.9.0.1:80") }))
		must(t, mustOpen(t, h, Options{HidePeer: true}).Close())
		must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	})
	t.Run("half an enrolment is made whole", func(t *testing.T) {
		e := mustOpen(t, h, Options{HidePeer: true})
		for cookie := range e.enrolled {
			must(t, e.pods.m.Put(placeOf(cookie), uint64(0)))
		}
		must(t, e.pods.m.Put(uint32(4711), uint64(4711))) // half a departure
		must(t, e.Close())
		must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80"))
		e = mustOpen(t, h, Options{HidePeer: true})
		must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
		apply(t, e, decisions()...)
		audited(t, e)
		must(t, e.Close())
	})
	t.Run("other limits are refused", func(t *testing.T) {
		_, err := Open(h, Options{HidePeer: true, Limits: Limits{Slots: 4096}})
		var refused PinError
		if !errors.As(err, &refused) || filepath.Base(refused.Path) != meshMapSlots {
			t.Errorf("got %v", err)
		}
		must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	})
	t.Run("a frontend that makes no sense is refused and named", func(t *testing.T) {
		e := mustOpen(t, h, Options{HidePeer: true})
		k := tcpKey(addr("10.9.9.9"), 80)
		must(t, e.frontends.m.Put(k, seal(k, meshFrontend{Set: 1 << 30, Generation: 1, Slots: 1})))
		must(t, e.Close())
		_, err := Open(h, Options{HidePeer: true})
		var refused PinError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "10.9.9.9:80/TCP") || refused.Busy {
			t.Errorf("got %v", err)
		}
		must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
		must(t, dropPinned(dir, k))
	})
	t.Run("links without a map are refused and go on", func(t *testing.T) {
		must(t, os.Remove(filepath.Join(dir, meshMapSlots)))
		_, err := Open(h, Options{HidePeer: true})
		var refused PinError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "map slots is not") {
			t.Errorf("got %v", err)
		}
		must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	})
	t.Run("maps without a link are replaced", func(t *testing.T) {
		for _, prog := range programs {
			if err := os.Remove(filepath.Join(dir, "link_"+prog.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		e := mustOpen(t, h, Options{HidePeer: true})
		if u := usageOf(t, e, meshMapFrontends); u.Used != 0 {
			t.Errorf("%d frontends of the old state are left", u.Used)
		}
		must(t, e.Remove())
	})
}

// dropPinned deletes an entry of the pinned map of frontends.
func dropPinned(dir string, k meshFrontendKey) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, meshMapFrontends), nil)
	if err != nil {
		return err
	}
	return errors.Join(m.Delete(k), m.Close())
}

// A pin that somebody removes is named by an audit and made again by a repair, so that
// the next process can take over.
func TestLostPinsAreMadeAgain(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	h := n.pinned(bpffs(t))
	dir := filepath.Join(h.BPFFS, "duomesh", abiDir)
	e := mustOpen(t, h, Options{HidePeer: true})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	for _, lost := range []string{meshMapFrontends, "link_" + meshProgMeshConnect4} {
		must(t, os.Remove(filepath.Join(dir, lost)))
		found, err := e.Audit()
		must(t, err)
		if len(found) != 1 || found[0].Map != Pinned || filepath.Base(found[0].Entry) != lost {
			t.Errorf("%s: found %v", lost, found)
		}
		_, err = e.Repair()
		must(t, err)
		audited(t, e)
	}
	must(t, e.Close())
	e = mustOpen(t, h, Options{HidePeer: true})
	if !e.Inherited() {
		t.Error("nothing was taken over")
	}
	must(t, connected(t, p, "10.9.0.1:80", "10.1.0.1:7001"))
	must(t, e.Remove())
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	n := newNode(t)
	plain, err := os.Open(t.TempDir())
	must(t, err)
	defer plain.Close()
	for _, c := range []struct {
		host Host
		want string
	}{
		{Host{}, "no cgroup was given"},
		{Host{Cgroup: plain}, "is not in a cgroup v2 hierarchy"},
		{Host{Cgroup: n.cgroup, BPFFS: plain.Name()}, "is not in a BPF file system"},
		{Host{Cgroup: n.cgroup, BPFFS: "/nonexistent"}, "/nonexistent: no such file"},
	} {
		_, err := Open(c.host, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestClosedEngine(t *testing.T) {
	n := newNode(t)
	e := mustOpen(t, n.host(), Options{})
	must(t, e.Close())
	must(t, e.Close())
	if err := e.Apply(context.Background(), intent.Snapshot{}); !errors.Is(err, errClosed) {
		t.Errorf("Apply: %v", err)
	}
	if err := e.Enrol(Pod{}); !errors.Is(err, errClosed) {
		t.Errorf("Enrol: %v", err)
	}
}

package l4

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

const (
	// snapshotsEnv overrides how many Snapshots the property test applies.
	snapshotsEnv = "DUOMESH_SNAPSHOTS"
	// seedEnv repeats a run whose seed was printed.
	seedEnv = "DUOMESH_SEED"
	// connectsEach is the number of connects on each Snapshot.
	connectsEach = 4
	// freshEach is the number of Snapshots between two comparisons with an
	// engine that was given nothing else.
	freshEach = 50
)

func fromEnv(tb testing.TB, name string, otherwise uint64) uint64 {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(tb, err)
	return n
}

// The kernel's choice is always one of the model's, and counted under the
// model's exit, for random Snapshots that follow one another and random
// connects. Several engines run at once, so that their grace periods overlap.
func TestKernelAgreesWithDecide(t *testing.T) {
	snapshots := fromEnv(t, snapshotsEnv, 10_000)
	seed := fromEnv(t, seedEnv, rand.Uint64())
	t.Logf("seed: %s=%d", seedEnv, seed)
	workers := min(12, max(2, snapshots/60))
	var all sync.Map // intent.Exit → seen
	var running sync.WaitGroup
	for i := range workers {
		// Not t.Parallel: it would run as many as there are processors.
		running.Go(func() {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				w := newWorker(t, rand.New(rand.NewPCG(seed, i)))
				for k := i; k < snapshots && !t.Failed(); k += workers {
					w.step(t)
				}
				for exit := range w.seen {
					all.Store(exit, true)
				}
			})
		})
	}
	running.Wait()
	if snapshots < 1000 {
		return
	}
	for _, exit := range []intent.Exit{
		intent.PassUnmanaged, intent.PassNoVIP, intent.PassPassthrough,
		intent.Redirect, intent.RefuseNoEndpoint, intent.RefuseNoPort,
		intent.RedirectWaypoint, intent.RefuseNoWaypoint, intent.RefusePolicy,
	} {
		if _, ok := all.Load(exit); !ok {
			t.Errorf("no connect ended with %s: it was not tested", exit)
		}
	}
}

type worker struct {
	r                  *rand.Rand
	e                  *Engine
	managed, unmanaged *pod
	services           []*intent.Service
	workloads          []*intent.Workload
	waypoints          []*intent.Waypoint
	steps              int
	seen               map[intent.Exit]bool
}

func newWorker(t *testing.T, r *rand.Rand) *worker {
	n := newNode(t)
	w := &worker{
		r: r, e: n.open(t, Options{HidePeer: true}), seen: map[intent.Exit]bool{},
		managed: n.pod(t, "default/managed"), unmanaged: n.pod(t, "default/unmanaged"),
	}
	must(t, w.e.Enrol(w.managed.Pod))
	return w
}

func (w *worker) step(t *testing.T) {
	w.change()
	s := intent.Snapshot{Services: w.services, Workloads: w.workloads}
	must(t, w.e.Apply(context.Background(), s))
	for range connectsEach {
		if err := w.connect(t, s); err != nil {
			t.Errorf("%v; snapshot %s", err, describe(s))
		}
	}
	if w.steps++; w.steps%freshEach == 0 {
		w.compareWithFresh(t)
	}
}

// connect makes one random connection and returns how it differs from the model.
func (w *worker) connect(t *testing.T, s intent.Snapshot) error {
	t.Helper()
	from, managed := w.managed, w.r.IntN(10) > 0
	if !managed {
		from = w.unmanaged
	}
	to := netip.AddrPortFrom(w.destination(), listening[w.r.IntN(len(listening))])
	domain := v4
	if to.Addr().Is6() {
		domain = v6
	} else if w.r.IntN(3) == 0 {
		domain, to = v6, netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	ask, proto := w.ask(domain, to)
	want := intent.Decide(s, intent.Caller{Managed: managed, Place: here}, to, proto)
	w.seen[want.Exit] = true
	var a answer
	exits := exitsOf(t, w.e, func() { a = from.do(t, ask) })
	// By an option, or by a header that nothing was sent behind.
	if handed := exits[intent.Exit(HandoffFull)] + exits[intent.Exit(HandoffSilent)]; (handed == 1) != (want.Exit == intent.RedirectWaypoint) {
		return fmt.Errorf("%s %v: exits %v, want %s", ask.Op, to, exits, want.Exit)
	}
	delete(exits, intent.Exit(HandoffFull))
	delete(exits, intent.Exit(HandoffSilent))
	if exits[want.Exit] != 1 || len(exits) != 1 {
		return fmt.Errorf("%s %v: exits %v, want %s", ask.Op, to, exits, want.Exit)
	}
	if !agrees(want, to, a) {
		return fmt.Errorf("%s %v: errno %w, peer %v, want %s to %v", ask.Op, to, a.Errno, a.Peer, want.Exit, want.Targets)
	}
	if proto == intent.UDP && a.Errno == 0 && a.Heard.From != to {
		return fmt.Errorf("%s %v: the reply shows %v", ask.Op, to, a.Heard.From)
	}
	return nil
}

// ask is a TCP connection, or a datagram on a connected or unconnected socket;
// for those the answer's Peer is who sent the reply.
func (w *worker) ask(domain int, to netip.AddrPort) (call, intent.Protocol) {
	switch w.r.IntN(4) {
	case 0:
		return call{Op: "datagram", Domain: domain, To: to}, intent.UDP
	case 1:
		return call{Op: "connected datagram", Domain: domain, To: to}, intent.UDP
	}
	return call{Op: "dial", Domain: domain, Type: unix.SOCK_STREAM, To: to}, intent.TCP
}

// The control: kernels that differ from the Snapshot in one entry are caught.
func TestKernelThatDisagreesIsCaught(t *testing.T) {
	for name, broken := range map[string]func(k meshFrontendKey, v meshFrontend) meshFrontend{
		"another target port": func(k meshFrontendKey, v meshFrontend) meshFrontend {
			v.TargetPort = swapPort(7003)
			return seal(k, v)
		},
		"passed through": func(k meshFrontendKey, v meshFrontend) meshFrontend {
			v.Flags = uint16(meshFrontendFlagFRONTEND_PASSTHROUGH)
			return seal(k, v)
		},
		"a waypoint": func(k meshFrontendKey, v meshFrontend) meshFrontend {
			v.Flags = uint16(meshFrontendFlagFRONTEND_WAYPOINT)
			return seal(k, v)
		},
		"refused for a policy": func(k meshFrontendKey, v meshFrontend) meshFrontend {
			v.Flags = uint16(meshFrontendFlagFRONTEND_REFUSE)
			return seal(k, v)
		},
		"no endpoint": func(k meshFrontendKey, v meshFrontend) meshFrontend {
			v.Slots = 0
			return seal(k, v)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorker(t, rand.New(rand.NewPCG(7, 8)))
			var all []*intent.Service
			for i := range 6 {
				svc := service("s"+itoa(i), []string{"10.9.0." + itoa(i+1), "fd00:9::" + itoa(i+1)}, listening,
					workload("w", "10.1.0.1", "fd00:1::1"))
				all = append(all, svc)
			}
			apply(t, w.e, all...)
			for k, v := range w.e.state.fronts {
				if v.Slots > 0 {
					must(t, w.e.frontends.m.Put(k, broken(k, v)))
				}
			}
			for range 50 {
				if w.connect(t, intent.Snapshot{Services: all}) != nil {
					return
				}
			}
			t.Error("50 connects did not notice")
		})
	}
}

func agrees(want intent.Decision, asked netip.AddrPort, a answer) bool {
	if want.Exit.Refused() {
		return a.Errno == unix.ECONNREFUSED
	}
	if want.Exit != intent.Redirect && want.Exit != intent.RedirectWaypoint {
		return a.Errno == 0 && unmapped(a.Peer) == unmapped(asked)
	}
	peer := unmapped(a.Peer)
	for _, target := range want.Targets {
		if a.Errno == 0 && target.Addr == peer {
			return true
		}
	}
	return false
}

func describe(s intent.Snapshot) string {
	text := ""
	for _, svc := range s.Services {
		text += fmt.Sprintf("\n%s canonical=%v %v %v %+v", svc.Key(), svc.Canonical, svc.Addresses, svc.Ports, svc.Balance)
		for _, e := range svc.Endpoints {
			text += fmt.Sprintf("\n  %v %+v", e.Ports, *e.Workload)
		}
		text += describeWaypoint(svc.Waypoint)
	}
	for _, w := range s.Workloads {
		text += fmt.Sprintf("\n%+v%s", *w, describeWaypoint(w.OwnWaypoint()))
	}
	return text
}

func describeWaypoint(w *intent.Waypoint) string {
	if w == nil {
		return ""
	}
	text := fmt.Sprintf("\n  waypoint at %d", w.Port)
	for _, e := range w.Endpoints {
		text += fmt.Sprintf("\n    %+v", *e.Workload)
	}
	return text
}

// compareWithFresh holds the maps after many changes against those of an engine
// that knows only the last Snapshot, whatever the numbers of the sets are.
func (w *worker) compareWithFresh(t *testing.T) {
	t.Helper()
	e := mustOpen(t, newNode(t).host(), Options{})
	defer e.Close()
	must(t, e.Apply(context.Background(), intent.Snapshot{Services: w.services, Workloads: w.workloads}))
	if diff := cmp.Diff(dump(t, e), dump(t, w.e)); diff != "" {
		t.Errorf("after %d changes the maps differ from a fresh load (-fresh +changed):\n%s", w.steps, diff)
	}
	audited(t, w.e)
}

// dump is what the kernel's frontends lead to, and how many slots there are.
func dump(tb testing.TB, e *Engine) map[string][]string {
	tb.Helper()
	slots := make([]meshSlot, e.limits.Slots)
	must(tb, e.slots.each(func(k uint32, v meshSlot) { slots[k] = v }))
	all := map[string][]string{"slots": {itoa(int(e.state.slots))}}
	must(tb, e.frontends.each(func(k meshFrontendKey, v meshFrontend) {
		lines := []string{fmt.Sprintf("flags %d, port %d, %d slots", v.Flags, swapPort(v.TargetPort), v.Slots)}
		for i := range v.Slots {
			slot := slots[v.Set+i]
			if slot.Generation != v.Generation {
				tb.Errorf("slot %d is of generation %d, its frontend of %d", v.Set+i, slot.Generation, v.Generation)
			}
			slot.Generation = 0
			lines = append(lines, fmt.Sprint(slot))
		}
		all[keyString(k)] = lines
	}))
	return all
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

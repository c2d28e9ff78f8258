package l4

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

var headerCodecs = []intent.Codec{intent.ProxyV2, intent.KmeshTLV}

// headed is a waypoint that wants a header and runs no program of ours, and a client.
type headed struct {
	*wired
	codec           intent.Codec
	from, way       *wiredPod
	asked4, asked6  []netip.AddrPort
	asked           []netip.AddrPort // all, also v4-mapped
	port            string           // of the waypoint at the hub
	servicesOfWorld []*intent.Service
}

func newHeaded(t testing.TB, codec intent.Codec, o Options) *headed {
	t.Helper()
	w := newWired(t)
	if o.Limits != (Limits{}) {
		must(t, w.client.Close())
		w.client = w.clients.open(t, o)
	}
	h := &headed{wired: w, codec: codec, from: w.enrolled(t, "default/client"), port: "port" + itoa(w.next)}
	h.way = w.pod(t, w.servers, "default/waypoint")
	if a := h.way.do(t, call{Op: "headed", Telling: telling{Codec: codec}}); a.Errno != 0 {
		t.Fatalf("listen: %v", a.Errno)
	}
	way := waypointOf(h.way)
	way.Codec, way.Port = codec, codec.Port()
	h.servicesOfWorld, h.asked4, h.asked6 = vips(many, way)
	h.asked = slices.Concat(h.asked4, h.asked6, mapped(h.asked4))
	must(t, w.client.Apply(context.Background(), intent.Snapshot{Services: h.servicesOfWorld}))
	return h
}

func (h *headed) tell(tb testing.TB, q telling) told {
	tb.Helper()
	q.Codec = h.codec
	if q.To == nil {
		q.To = h.asked
	}
	if q.Shapes == nil {
		q.Shapes = slices.Sorted(maps.Keys(shapes))
	}
	return h.from.do(tb, call{Op: "tell", Telling: q}).Told
}

// waiting counts the sockets in unsent.
func (e *Engine) waiting(tb testing.TB) (n int) {
	tb.Helper()
	var key, next uint64
	err := e.unsent.NextKey(nil, &next)
	for ; err == nil; n++ {
		key = next
		err = e.unsent.NextKey(key, &next)
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		tb.Fatal(err)
	}
	return n
}

// Thousands of connections of all families and first sends: the bytes are the golden
// ones, what the application sent is whole behind them, and no read that waits after
// a half close gives up.
func TestHeadersOfManyConnections(t *testing.T) {
	const each = 10_000
	for _, codec := range headerCodecs {
		t.Run(string(codec), func(t *testing.T) {
			h := newHeaded(t, codec, Options{})
			var got told
			client := exitsOf(t, h.client, func() { got = h.tell(t, telling{N: each, Threads: 8}) })
			if got.Right != each {
				t.Errorf("%d of %d right: %+v", got.Right, each, got)
			}
			want := map[intent.Exit]uint64{intent.RedirectWaypoint: each, intent.Exit(HandoffHeader): each}
			if !maps.Equal(client, want) {
				t.Errorf("counted %v, want %v", client, want)
			}
			if n := h.client.waiting(t); n != 0 {
				t.Errorf("%d sockets are still in unsent", n)
			}
			audited(t, h.client)
		})
	}
}

// The control of the reads: a socket that stays in a collection does give up.
func TestReadsGiveUpInACollection(t *testing.T) {
	h := newHeaded(t, intent.KmeshTLV, Options{})
	stranger := h.pod(t, h.clients, "default/stranger")
	got := stranger.do(t, call{Op: "tell", Telling: telling{
		Codec: h.codec, N: 60, Threads: 2, Kept: true, Shapes: []string{"one write"},
		To: []netip.AddrPort{netip.AddrPortFrom(h.way.v4, h.codec.Port())},
	}}).Told
	if got.Again == 0 {
		t.Errorf("no read gave up: %+v", got)
	}
	if got.Right > 0 {
		t.Errorf("the control of the headers: %d are there without an engine", got.Right)
	}
}

// counting has the kernel count the runs of programs.
func counting(t *testing.T) {
	t.Helper()
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	must(t, err)
	t.Cleanup(func() { stats.Close() })
}

// After its first bytes a socket is a plain one: it is in no collection, and no send
// runs a program.
func TestSocketsLeaveAtTheirFirstBytes(t *testing.T) {
	counting(t)
	for _, codec := range headerCodecs {
		t.Run(string(codec), func(t *testing.T) {
			h := newHeaded(t, codec, Options{})
			fds := h.from.do(t, call{Op: "silent", Telling: telling{N: 3, To: h.asked}}).FDs
			if n := h.client.waiting(t); n != len(fds) {
				t.Fatalf("%d sockets in unsent, want %d", n, len(fds))
			}
			for i, fd := range fds {
				h.from.do(t, call{Op: "write", FD: fd, N: 1})
				if n := h.client.waiting(t); n != len(fds)-i-1 {
					t.Errorf("%d sockets in unsent after %d wrote", n, i+1)
				}
			}
			before := h.runs(t)
			for range 20 {
				for _, fd := range fds {
					h.from.do(t, call{Op: "write", FD: fd, N: 1000})
				}
			}
			if after := h.runs(t); after != before {
				t.Errorf("%d runs of programs for later sends", after-before)
			}
		})
	}
}

// So it is whatever the first send looks like: the socket is still open when it is looked
// for.
func TestSocketsLeaveAtAnyFirstSend(t *testing.T) {
	counting(t)
	for _, codec := range headerCodecs {
		h := newHeaded(t, codec, Options{})
		for _, shape := range slices.Sorted(maps.Keys(shapes)) {
			for _, to := range []netip.AddrPort{h.asked4[0], h.asked6[0], mapped(h.asked4)[0]} {
				a := h.from.do(t, call{Op: "first send", Telling: telling{N: 1, Shapes: []string{shape}, To: []netip.AddrPort{to}}})
				if n := h.client.waiting(t); a.Errno != 0 || n != 0 {
					t.Errorf("%s, %s to %s: %d sockets in unsent, %v", codec, shape, to, n, a.Errno)
				}
				before := h.runs(t)
				h.from.do(t, call{Op: "write", FD: a.FD, N: 1000})
				if after := h.runs(t); after != before {
					t.Errorf("%s, %s to %s: %d runs of programs for the next send", codec, shape, to, after-before)
				}
				h.from.do(t, call{Op: "close", FD: a.FD})
			}
		}
	}
}

// runs is how often the programs of headers have run.
func (h *headed) runs(tb testing.TB) (n uint64) {
	tb.Helper()
	for _, name := range []string{meshProgMeshHeader, meshProgMeshFirstBytes, meshProgMeshSockops} {
		s, err := h.client.coll.Programs[name].Stats()
		must(tb, err)
		n += s.RunCount
	}
	return n
}

// What a header cannot be written for is refused at connect, and counted.
func TestHeadersRefuse(t *testing.T) {
	for _, codec := range headerCodecs {
		for _, open := range []string{"MSG_FASTOPEN", "TFO connect", "MPTCP"} {
			t.Run(string(codec)+" "+open, func(t *testing.T) {
				h := newHeaded(t, codec, Options{})
				if open == "MPTCP" {
					h.from.needsMPTCP(t)
				} else {
					kernel.Require(t, kernel.BTF)
					h.from.sysctl(t, "ipv4.tcp_fastopen", "3")
					h.way.sysctl(t, "ipv4.tcp_fastopen", "3")
				}
				var got told
				client := exitsOf(t, h.client, func() { got = h.tell(t, telling{N: 30, Open: open, Shapes: []string{"1 byte"}}) })
				if got.Failed != 30 || client[intent.Exit(RefuseCodec)] != 30 || len(client) != 1 {
					t.Errorf("%+v, counted %v", got, client)
				}
				if len(got.Failures) > 0 && !slices.ContainsFunc(got.Failures, func(s string) bool {
					return len(s) > 0 && containsAll(s, "of connect", unix.ECONNREFUSED.Error())
				}) {
					t.Errorf("refused by %q", got.Failures)
				}
			})
		}
	}
}

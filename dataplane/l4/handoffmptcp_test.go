package l4

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestHandoffOfMPTCP(t *testing.T) {
	n := int(fromEnv(t, handoffsEnv, 100))
	for name, how := range map[string]listenHow{
		"plain listener": {}, "net.Listen": {Go: true}, "MPTCP listener": {MPTCP: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWired(t)
			client := w.enrolled(t, "default/client")
			client.needsMPTCP(t)
			way := w.waypoint(t, "default/waypoint", how)
			services, asked4, asked6 := vips(many, waypointOf(way))
			w.apply(t, intent.Snapshot{Services: services})
			want := client.wantRight
			if how.MPTCP || how.Go { // net.Listen listens for MPTCP, too
				want = client.wantRightOrMute
			}
			w.wantEvents(t, n, []Event{HandoffFull, HandoffAnswered}, func() {
				want(t, asking{N: n, Threads: 4, Proto: unix.IPPROTO_MPTCP, To: asked4})
			})
			// No room for an IPv6 address beside MPTCP's own option.
			w.wantEvents(t, n, []Event{HandoffShort, HandoffAnswered}, func() {
				want(t, asking{N: n, Threads: 4, Proto: unix.IPPROTO_MPTCP, To: asked6})
			})
			want(t, asking{N: n, Threads: 4, Go: true, Proto: unix.IPPROTO_MPTCP, To: asked4})
			client.wantRight(t, asking{N: n, Threads: 4, Go: true, To: asked6})
		})
	}
}

// wantRightOrMute is wantRight where both ends speak MPTCP: of some thousand such
// connections to a server that speaks first Linux 6.18 keeps one's answer to itself, with
// and without a mesh. That each was handed over is for wantEvents to say.
func (p *wiredPod) wantRightOrMute(tb testing.TB, q asking) {
	tb.Helper()
	const most = 2
	got := p.ask(tb, q)
	if got.Right+got.Mute != q.N || got.Mute > most {
		tb.Errorf("%d of %d right, %d wrong %q, %d failed %q", got.Right, q.N, got.Wrong, got.Wrongs, got.Failed, got.Failures)
	}
	if got.Mute > 0 {
		tb.Logf("%d of %d connections heard nothing from the kernel", got.Mute, q.N)
	}
}

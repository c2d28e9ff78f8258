package l4

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// kernelBefore reports whether this kernel is older than a release.
func kernelBefore(tb testing.TB, major, minor uint32) bool {
	tb.Helper()
	v, err := features.LinuxVersionCode()
	must(tb, err)
	return v < major<<16|minor<<8
}

// preparesListeners reports whether listeners that are older than an entry of
// waypoints can be prepared here: from Linux 6.12, by an iterator, which needs BTF.
func preparesListeners(tb testing.TB, e *Engine) bool {
	tb.Helper()
	return e.preparer != nil && !kernelBefore(tb, 6, 12)
}

// wantUnprepared fails unless a waypoint was refused for an older listener.
func wantUnprepared(tb testing.TB, err error) {
	tb.Helper()
	if err == nil || !strings.Contains(err.Error(), "cannot be prepared on this kernel") {
		tb.Errorf("this kernel cannot prepare an older listener, and ServeWaypoint says %v", err)
	}
}

// A listener that is older than the engine's entry is prepared, or refused by name
// where the kernel cannot; and is the control: before that it has no answers.
func TestHandoffToAnOlderListener(t *testing.T) {
	for _, cookies := range []string{"1", "2"} {
		t.Run("tcp_syncookies="+cookies, func(t *testing.T) {
			w := newWired(t)
			client, way := w.enrolled(t, "default/client"), w.pod(t, w.servers, "default/waypoint")
			way.sysctl(t, "ipv4.tcp_syncookies", cookies)
			way.serve(t, listenHow{})
			services, asked4, asked6 := vips(many, waypointOf(way))
			w.apply(t, intent.Snapshot{Services: services})
			if got := client.ask(t, asking{N: 20, To: asked4}); got.Wrong != 20 {
				t.Errorf("the control: %+v", got)
			}
			err := w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst)
			if !preparesListeners(t, w.server) {
				wantUnprepared(t, err)
				return
			}
			must(t, err)
			client.wantRight(t, asking{N: 100, Threads: 4, To: asked4})
			client.wantRight(t, asking{N: 100, Threads: 4, To: asked6})
		})
	}
}

// Where no kernel prepares it, a waypoint whose listener is older is refused by name, and
// is not told that it is served.
func TestOlderListenerThatNobodyPrepares(t *testing.T) {
	w := newWired(t)
	preparer, why := w.server.preparer, w.server.noPreparer
	w.server.preparer, w.server.noPreparer = nil, errors.New("no BTF here")
	t.Cleanup(func() { w.server.preparer, w.server.noPreparer = preparer, why })
	w.apply(t, intent.Snapshot{})
	older, younger := w.pod(t, w.servers, "default/older"), w.pod(t, w.servers, "default/younger")
	older.serve(t, listenHow{})
	served := func(p *wiredPod) bool { return p.do(t, call{Op: "version"}).Errno == 0 }
	err := w.server.ServeWaypoint(older.Cgroup, older.Netns, handoff.PortOriginalDst)
	if err == nil || !strings.Contains(err.Error(), "start it anew") || !strings.Contains(err.Error(), "no BTF here") {
		t.Errorf("got %v", err)
	}
	if served(older) {
		t.Error("a waypoint that was refused is told that it is served")
	}
	must(t, w.server.ServeWaypoint(younger.Cgroup, younger.Netns, handoff.PortOriginalDst))
	younger.serve(t, listenHow{})
	must(t, w.server.ServeWaypoint(younger.Cgroup, younger.Netns, handoff.PortOriginalDst)) // an agent that is started again
	if !served(younger) {
		t.Error("the control is not served")
	}
	audited(t, w.server)
}

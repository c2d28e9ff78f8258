package l4

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// More than twenty thousand are open at a time: three clients, and three replicas of a
// waypoint below the node's engine.
func TestHandoffOfManyAtOnce(t *testing.T) {
	w := newWired(t)
	var clients, ways []*wiredPod
	for i := range 3 {
		clients = append(clients, w.enrolled(t, "default/client"+itoa(i)))
		ways = append(ways, w.waypoint(t, "default/waypoint"+itoa(i), listenHow{Threads: 1}))
	}
	services, asked4, asked6 := vips(1000, waypointOf(ways...))
	w.apply(t, intent.Snapshot{Services: services})
	const each = 6700
	to := slices.Concat(asked4, asked6, mapped(asked4))
	w.wantEvents(t, len(clients)*each, []Event{HandoffFull, HandoffAnswered}, func() {
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				c.wantRight(t, asking{N: each, Threads: 50, Hold: true, To: to, From: []netip.Addr{c.v4, c.v6}})
			})
		}
		wg.Wait()
	})
	audited(t, w.client)
	audited(t, w.server)
}

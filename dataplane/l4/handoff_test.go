package l4

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestHandoff(t *testing.T) {
	w := newWired(t)
	client, way := w.enrolled(t, "default/client"), w.waypoint(t, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(100, waypointOf(way))
	w.apply(t, intent.Snapshot{Services: services})
	client.wantRight(t, asking{N: 200, Threads: 4, To: asked4})
	client.wantRight(t, asking{N: 200, Threads: 4, To: asked6})
	client.wantRight(t, asking{N: 200, Threads: 4, To: mapped(asked4)})
	t.Log(counts(t, w.client), counts(t, w.server))
}

package l4

import (
	"context"
	"errors"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// A name that lingers makes room for others, but not where its frontend comes back in
// the same moment; what does not fit then is refused before the first write.
func TestLingeringNamesMakeRoom(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{HidePeer: true, Limits: Limits{Names: 2}})
	l7 := func(i int) *intent.Service {
		s := service("s"+itoa(i), []string{"10.9.0." + itoa(i)}, []uint16{80}, workload("w"+itoa(i), "10.1.0.1"))
		s.Waypoint = wayAt("10.3.0.1")
		return s
	}
	one, two, three := l7(1), l7(2), l7(3)
	names := func(want ...*intent.Service) {
		t.Helper()
		audited(t, e)
		for _, svc := range want {
			id := handoffID(here.Network, tcpKey(svc.Addresses[0], 80))
			var have meshName
			if err := e.names.m.Lookup(id, &have); err != nil || wordsAddr(have.To.Addr) != svc.Addresses[0] {
				t.Errorf("name of %s: %v, %v", svc.Key(), have, err)
			}
		}
	}
	apply(t, e, one, two)
	names(one, two)
	apply(t, e, two)
	names(one, two) // the first lingers
	before := e.writes()
	err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{one, two, three}})
	if want := (CapacityError{Map: meshMapNames, Need: 3, Have: 2}); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if e.writes() != before {
		t.Error("a refused Snapshot was written in part")
	}
	names(one, two)
	apply(t, e, one, two)
	names(one, two)
	apply(t, e, two)
	apply(t, e, two, three)
	names(two, three) // the first has made room
}

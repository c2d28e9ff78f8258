package admin

import (
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

func TestHandOffLines(t *testing.T) {
	one := &intent.Waypoint{Name: "shop/way", Codec: intent.KmeshTLV, Port: 15019}
	s := intent.Snapshot{
		Services:  []*intent.Service{{Name: "a", Waypoint: one}, {Name: "b", Waypoint: one}, {Name: "c"}},
		Workloads: []*intent.Workload{{Name: "w", Waypoint: &intent.Waypoint{Name: "shop/other", Codec: intent.OriginalDst, Port: 15029}}},
	}
	if got := handOffLines(map[l4.Event]uint64{l4.HandoffFull: 3, l4.HandoffHeader: 4, l4.Retry: 1}, s); len(got) > 0 {
		t.Errorf("nothing is lost: %q", got)
	}
	got := handOffLines(map[l4.Event]uint64{l4.HandoffUnreached: 40, l4.HandoffSilent: 2}, s)
	if len(got) != 3 || !strings.HasPrefix(got[0], "40 connections were refused by their waypoint") || !strings.Contains(got[0], "handoff-unreached") ||
		!strings.HasPrefix(got[1], "2 connections ended") || got[2] != "waypoints in use: shop/other (original-dst at 15029), shop/way (kmesh-tlv at 15019)" {
		t.Errorf("%q", got)
	}
	for i := range someNames + 2 {
		s.Services = append(s.Services, &intent.Service{Waypoint: &intent.Waypoint{Name: string(rune('a' + i))}})
	}
	if got := waypointsInUse(s); strings.Count(got, "(") != someNames || !strings.HasSuffix(got, " and 4 more") {
		t.Errorf("many: %q", got)
	}
	// Every event that a hand-off can end with is said, or is none of a loss.
	fine := []l4.Event{l4.HandoffFull, l4.HandoffShort, l4.HandoffResent, l4.HandoffHeader, l4.HandoffAnswered}
	waypoints := []l4.Event{l4.HandoffNoAnswer, l4.HandoffUnknownID, l4.HandoffLost} // which refuse, and count themselves
	for _, e := range []l4.Event{
		l4.HandoffFull, l4.HandoffShort, l4.HandoffUnsent, l4.HandoffResent, l4.HandoffHeader, l4.HandoffEarly, l4.HandoffSilent,
		l4.HandoffUnwritten, l4.HandoffUnreached, l4.HandoffAnswered, l4.HandoffNoAnswer, l4.HandoffUnknownID, l4.HandoffLost,
	} {
		said := len(handOffLines(map[l4.Event]uint64{e: 1}, s)) > 0
		if said == slices.Contains(slices.Concat(fine, waypoints), e) {
			t.Errorf("%s: said %v", e, said)
		}
	}
}

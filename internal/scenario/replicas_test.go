package scenario

import (
	"strings"
	"testing"
)

// TestReplicasThatMakeNoSense: each is refused, and the scenario that names some is not.
func TestReplicasThatMakeNoSense(t *testing.T) {
	for want, change := range map[string]func(*Load){
		"":                                      func(*Load) {},
		"replica v1 is no pod of waypoint pair": func(l *Load) { l.Want.Replicas = []string{"waypoint", "v1"} },
		"replicas are those of a waypoint that TCP connections pass": func(l *Load) {
			l.Requests, l.Want.Via, l.Want.Waypoint, l.Connections = 0, ViaSocket, "", gateConnections
		},
		"who took what before it is not told apart":               func(l *Load) { l.Connections, l.Then = 2*l.Connections, &Want{Outcome: RefusedByMesh} },
		"99 connections, that each takes some needs at least 100": func(l *Load) { l.Connections, l.Requests = 99, gateConnections/99 },
	} {
		s := l7TwoReplicas()
		l := &s.Phases[0].Loads[0]
		change(l)
		if l.Then != nil {
			s.Phases[0].During = []Action{Apply{s.Objects}}
		}
		switch err := s.Validate(); {
		case want == "" && err != nil:
			t.Error(err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%v, want %s", err, want)
		}
	}
}

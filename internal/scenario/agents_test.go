package scenario

import (
	"strings"
	"testing"
)

func TestAgentActionsAreChecked(t *testing.T) {
	good := agentChurn()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		action Action
		agents bool
		want   string
	}{
		{KillAgent{"a"}, false, "the topology has no agents"},
		{StartAgent{"z"}, true, "node z is not in the topology"},
		{Churn{Between: []Objects{{}}, Changes: 1, PerSecond: 1, Kill: []string{"z"}}, true, "node z is not"},
		{Churn{Between: []Objects{{}}, Changes: 1}, true, "a rate"},
	} {
		s := agentChurn()
		s.Topology.Agents = c.agents
		s.Phases[0].During = []Action{c.action}
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.action, err, c.want)
		}
	}
}

func TestParseAgentActions(t *testing.T) {
	got, err := parse("x.yaml", []byte(`
name: x
topology: {agents: true, nodes: [{name: a, pods: [{name: c, managed: true}, {name: s, serve: [8080]}]}]}
objects: {services: [{name: web, family: IPv4, ports: [{port: 80, target: 8080}], endpoints: [{pod: s, weight: 1}]}]}
phases:
  - before:
      - {killAgent: a}
      - {startAgent: a}
      - {recycle: c}
    during:
      - churn: {between: [{services: []}], changes: 3, perSecond: 10, kill: [a], killEvery: 2}
    loads:
      - from: [c]
        to: {service: web, port: 80, family: IPv4}
        connections: 10
        want: {outcome: connected, via: socket, port: 8080, split: {s: 1}}
`))
	if err != nil {
		t.Fatal(err)
	}
	ph := got.Phases[0]
	if len(ph.Before) != 3 || ph.Before[0] != (KillAgent{"a"}) || ph.Before[1] != (StartAgent{"a"}) || ph.Before[2] != (Recycle{"c"}) {
		t.Errorf("before is %v", ph.Before)
	}
	churn, ok := ph.During[0].(Churn)
	if !ok || churn.Changes != 3 || churn.PerSecond != 10 || churn.KillEvery != 2 || len(churn.Kill) != 1 || len(churn.Between) != 1 {
		t.Errorf("during is %+v", ph.During)
	}
}

package verify

import (
	"testing"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

func behind(pods ...string) scenario.Objects {
	s := scenario.Service{Name: "s", Family: scenario.IPv4}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, scenario.Endpoint{Pod: p, Weight: 1})
	}
	return scenario.Objects{Services: []scenario.Service{s}}
}

// churnedTimes has v1 before the churn, then v2, v3, v4; node n was never seen to
// have v2.
func churnedTimes() timeline {
	return timeline{service: "s", nodes: map[string]string{"client": "n"}, held: []scenario.Held{
		{Objects: behind("v1"), Applied: map[string]int64{"n": 50}},
		{Objects: behind("v2"), Handed: 100, Applied: map[string]int64{"other": 101}},
		{Objects: behind("v3"), Handed: 200, Applied: map[string]int64{"n": 250}},
		{Objects: behind("v4"), Handed: 300, Applied: map[string]int64{"n": 350}},
	}}
}

func TestMoments(t *testing.T) {
	for _, c := range []struct {
		start, decided int64
		want           string
	}{
		{60, 99, "v1"},
		{60, 100, "v1 v2"},
		{150, 160, "v1 v2"},
		{240, 260, "v1 v2 v3"},
		{250, 299, "v3"},
		{260, 310, "v3 v4"},
		{350, 900, "v4"},
	} {
		got := ""
		for i, p := range churnedTimes().at("n", c.start, c.decided) {
			if i > 0 {
				got += " "
			}
			got += p
		}
		if got != c.want {
			t.Errorf("asked at %d, decided by %d: %q may serve, want %q", c.start, c.decided, got, c.want)
		}
	}
}

func TestServedByAnotherMoment(t *testing.T) {
	group := func(pod string) group {
		f := fact{
			clientConn: clientConn{"client", traffic.Conn{Start: 260, Connected: 270, Server: pod}},
			servers:    []servedConn{{pod, traffic.Conn{}}},
		}
		return group{name: "g", facts: []fact{f}, times: churnedTimes()}
	}
	for pod, want := range map[string]report.Verdict{"v3": report.Pass, "v1": report.Fail, "v4": report.Fail} {
		got := report.Pass
		for _, c := range group(pod).checkTimes() {
			got = got.Worse(c.Verdict)
		}
		if got != want {
			t.Errorf("served by %s when v3 was declared: %s, want %s", pod, got, want)
		}
	}
}

// TestMomentsThatTellNothing: where every endpoint would have been right, nothing is
// shown.
func TestMomentsThatTellNothing(t *testing.T) {
	times := churnedTimes()
	for i := range times.held {
		times.held[i].Objects = behind("v1", "v2")
	}
	g := group{name: "g", times: times, facts: []fact{{
		clientConn: clientConn{"client", traffic.Conn{Start: 260, Connected: 270}},
		servers:    []servedConn{{"v1", traffic.Conn{}}},
	}}}
	if c := g.checkTimes()[1]; c.Verdict != report.Inconclusive {
		t.Errorf("%s: %s", c.Name, c.Verdict)
	}
}

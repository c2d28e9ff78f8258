package istiod

import (
	"os"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// outage is how long istiod is away: DUOMESH_OUTAGE, or 15 s.
func outage() time.Duration {
	if text := os.Getenv("DUOMESH_OUTAGE"); text != "" {
		return must(time.ParseDuration(text))
	}
	return 15 * time.Second
}

// rate is that of the load, connections a second.
const rate = 1100

func weights(v1, v2 uint32) scenario.Objects {
	return scenario.Objects{Services: []scenario.Service{{
		Name: "fortio", Family: scenario.IPv4, Ports: []scenario.Port{{Port: 80, Target: 8080}},
		Endpoints: []scenario.Endpoint{{Pod: "v1", Weight: v1}, {Pod: "v2", Weight: v2}},
	}}}
}

func shares(v1, v2 float64) scenario.Want {
	return scenario.Want{
		Outcome: scenario.Connected, Via: scenario.ViaSocket, Port: 8080,
		Split: map[string]float64{"v1": v1, "v2": v2},
	}
}

// steady is a load that lasts about so long; then, where set, holds after a change.
func steady(d time.Duration, want scenario.Want, then *scenario.Want) []scenario.Load {
	least := most
	if then != nil {
		least = 16_000 // three in eight come before the change, and are enough for a share
	}
	return []scenario.Load{{
		From: []string{"client"}, To: scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4},
		Connections: max(int(d.Seconds()*rate), least), PerSecond: rate, Want: want, Then: then,
	}}
}

// istiodAway is an outage under load, with endpoint changes before and after it.
func istiodAway() scenario.Scenario {
	// It begins in the middle of the first phase, and ends when three eighths of the
	// second have been made.
	each := outage() * 8 / 7
	after := shares(.1, .9)
	return scenario.Scenario{
		Name: "istiod/killed/under-load", Summary: "istiod is away under load, endpoints change before and after",
		Topology: fleet(), Objects: weights(1, 1),
		Phases: []scenario.Phase{
			{Before: []scenario.Action{scenario.Apply{Objects: weights(90, 10)}},
				Loads: steady(each, shares(.9, .1), nil), During: []scenario.Action{scenario.KillIstiod{}}},
			{Loads: steady(each, shares(.9, .1), &after),
				During: []scenario.Action{scenario.StartIstiod{}, scenario.Apply{Objects: weights(10, 90)}}},
		},
	}
}

// agentAway kills and starts the client's agent while istiod is down.
func agentAway() scenario.Scenario {
	after := shares(.1, .9)
	return scenario.Scenario{
		Name: "istiod/agent-killed-meanwhile", Summary: "the agent dies and comes back while istiod is away",
		Topology: fleet(), Objects: weights(90, 10),
		Phases: []scenario.Phase{
			{Before: []scenario.Action{scenario.KillIstiod{}},
				Loads: steady(0, shares(.9, .1), nil), During: []scenario.Action{scenario.KillAgent{Node: "a"}}},
			{Loads: steady(0, shares(.9, .1), nil), During: []scenario.Action{scenario.StartAgent{Node: "a"}}},
			{Before: []scenario.Action{scenario.StartIstiod{}, scenario.Apply{Objects: weights(10, 90)}},
				Loads: steady(0, after, nil)},
		},
	}
}

var _ = Describe("without istiod", func() {
	AfterEach(func(ctx SpecContext) {
		if !plane.Stack().IstiodRuns() {
			Expect(plane.Stack().StartIstiod(ctx)).To(Succeed())
		}
	}, NodeTimeout(time.Minute))

	DescribeTable("no connection fails or goes astray", func(ctx SpecContext, s scenario.Scenario) {
		r := judged(ctx, s)
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
		say("%s: %d connections, outage of at least %s, none failed or went astray", s.Name, r.Connections, outage())
	},
		Entry("while it is away and when it comes back", istiodAway(), SpecTimeout(5*time.Minute)),
		Entry("while the agent dies and comes back as well", agentAway(), SpecTimeout(3*time.Minute)),
	)

	// The control: an outage is one, and the harness does not take a change for done.
	It("a change reaches nobody: the control", func(ctx SpecContext) {
		s := istiodAway()
		s.Phases[1].During = []scenario.Action{scenario.Apply{Objects: weights(10, 90)}}
		s.Phases[1].Loads = steady(0, shares(.9, .1), s.Phases[1].Loads[0].Then)
		s.Phases[0].Loads = steady(0, shares(.9, .1), nil)
		r := judged(ctx, s)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("istiod does not run"))
	}, SpecTimeout(2*time.Minute))

	It("a mesh that loses its way is seen: the control", func(ctx SpecContext) {
		s := agentAway()
		s.Phases = s.Phases[:1]
		s.Phases[0].During = append(s.Phases[0].During, scenario.Leave{Pod: "client"})
		r := judged(ctx, s)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
	}, SpecTimeout(2*time.Minute))
})

package istiod

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// byHeader are the arguments of agents that hand over by a PROXY header, headerPort where.
var (
	byHeader   = []string{"--handoff", scenario.ProxyV2}
	headerPort = intent.ProxyV2.Port()
)

var _ = Describe("a waypoint that istiod configures and that is told by a header", Label(byWaypoint), func() {
	// declared is the mesh of the usual waypoint, told so.
	declared := func() declared {
		d := declaredWay(true)
		d.config.AgentArgs, d.codec, d.routes = byHeader, scenario.ProxyV2, ledBy(headerPort, "waypoint")
		return d
	}

	It("splits requests and connections by a VirtualService", func(ctx SpecContext) {
		share := map[string]float64{"v1": .9, "v2": .1}
		r := judgedWay(ctx, declared(), handed(8, 750, share), handed(scenario.MinConnections, 1, share))
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
	}, SpecTimeout(4*time.Minute))

	It("is judged by its share: 90/10 is not 85/15, the control", func(ctx SpecContext) {
		r := judgedWay(ctx, declared(), handed(8, 750, map[string]float64{"v1": .85, "v2": .15}))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(r.Failed()).To(HaveEach(HaveField("Name", ContainSubstring("requests: share of"))))
	}, SpecTimeout(4*time.Minute))

	It("refuses, and nodes count it, where nobody listens for the header", func(ctx SpecContext) {
		config := netsim.Config{AgentArgs: []string{"--handoff", string(intent.KmeshTLV)}}
		c := throughBy(ctx, config, intent.KmeshTLV.Port(), "waypoint")
		r := get(ctx, c, echoURL)
		Expect(r.Failed).To(Equal(1), "it was served: %v", r.Got)
		Expect(r.First).To(ContainSubstring("connection refused"))
		agent := api.NewClient(*c.State().Nodes[0].Admin)
		defer agent.Close()
		Expect(must(agent.Exits(ctx)).Events).To(HaveKeyWithValue("handoff-unreached", BeNumerically("==", 1)))
	}, SpecTimeout(2*time.Minute))
})

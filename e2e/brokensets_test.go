package e2e

import (
	"context"
	"encoding/binary"
	"math"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// services is told for each service, and for its endpoints, which are copies.
func services(edit func(s *scenario.Service)) func(scenario.Objects) scenario.Objects {
	return func(o scenario.Objects) scenario.Objects {
		o.Services = slices.Clone(o.Services)
		for i := range o.Services {
			s := &o.Services[i]
			s.Endpoints, s.Ports = slices.Clone(s.Endpoints), slices.Clone(s.Ports)
			edit(s)
		}
		return o
	}
}

// named is services for one of them.
func named(name string, edit func(s *scenario.Service)) func(scenario.Objects) scenario.Objects {
	return services(func(s *scenario.Service) {
		if s.Name == name {
			edit(s)
		}
	})
}

// lessStrict takes the widest scopes of a policy away, or all.
func lessStrict(s *scenario.Service) {
	switch s.Name {
	case "subzone":
		s.Balance.Prefer = s.Balance.Prefer[2:]
	case "zone":
		s.Balance.Prefer = s.Balance.Prefer[1:]
	case "node", "region", "cluster":
		nowhereInParticular(s)
	}
}

// some is a scenario of so many connections that a wrong choice among two is not missed,
// and no share is judged.
func some(s scenario.Scenario) scenario.Scenario {
	s = scenario.Single(s)
	for _, ph := range s.Phases {
		for i := range ph.Loads {
			ph.Loads[i].Connections = 40 * len(ph.Loads[i].From)
		}
	}
	return s
}

func nowhereInParticular(s *scenario.Service) { s.Balance = scenario.Balance{} }

func allReady(o scenario.Objects) scenario.Objects {
	o.Unready = nil
	return o
}

func weights(from, to uint32) func(scenario.Objects) scenario.Objects {
	return services(func(s *scenario.Service) {
		for i := range s.Endpoints {
			if s.Endpoints[i].Weight == from {
				s.Endpoints[i].Weight = to
			}
		}
	})
}

// toPort makes every slot lead to one port.
func toPort(port uint16) func(context.Context, *netsim.Cluster) error {
	return editSlots(func(slot []byte) {
		binary.BigEndian.PutUint16(slot[firstPort:], port)
		binary.BigEndian.PutUint16(slot[secondPort:], port)
	})
}

// sendToSecond makes every slot lead to the second IPv4 address of a pod.
func sendToSecond(pod string) func(context.Context, *netsim.Cluster) error {
	return func(ctx context.Context, c *netsim.Cluster) error {
		to, err := c.Resolve(scenario.Target{Pod: scenario.AddressOf(pod, 2), Family: scenario.IPv4})
		if err != nil {
			return err
		}
		return editSlots(leadTo(to.Addr()))(ctx, c)
	}
}

const (
	wrongServer = "the application saw what is declared"
	most        = math.MaxUint32
)

// The controls of the scenarios of endpoint sets. What is exact shows with a few
// connections.
var _ = Describe("a mesh that chooses other endpoints", Label("netsim"), func() {
	DescribeTable("is refused", func(ctx SpecContext, name string, b brokenWorld, checks ...string) {
		s, found := scenario.Find(name)
		Expect(found).To(BeTrue())
		expectRefusedIn(ctx, some(s), b, checks...)
	},
		Entry("slots lead to the next zone", SpecTimeout(time.Minute), "locality/failover/levels",
			brokenWorld{sabotage: sendToServed("same-region")}, wrongServer),
		Entry("no policy of locality", SpecTimeout(time.Minute), "locality/failover/levels",
			brokenWorld{told: services(nowhereInParticular)}, wrongServer),
		Entry("a policy without its last scope", SpecTimeout(time.Minute), "locality/failover/levels",
			brokenWorld{told: services(func(s *scenario.Service) { s.Balance.Prefer = s.Balance.Prefer[:4] })}, wrongServer),
		Entry("near pods that are not ready and stay", SpecTimeout(time.Minute), "locality/failover/levels",
			brokenWorld{told: allReady}, wrongServer),
		Entry("no policy of zones", SpecTimeout(time.Minute), "locality/failover/zone",
			brokenWorld{told: services(nowhereInParticular)}, wrongServer),
		Entry("strict that goes on elsewhere", SpecTimeout(time.Minute), "locality/strict/node",
			brokenWorld{told: services(func(s *scenario.Service) { s.Balance.Mode = intent.Failover })}, wrongServer),
		Entry("strict by nothing", SpecTimeout(time.Minute), "locality/strict/node",
			brokenWorld{told: services(nowhereInParticular)}, wrongServer),
		Entry("strict by less than was declared", SpecTimeout(time.Minute), "locality/strict/scopes",
			brokenWorld{told: services(lessStrict)}, "node:80/IPv4: "+wrongServer, "subzone:80/IPv4: "+wrongServer,
			"zone:80/IPv4: "+wrongServer, "region:80/IPv4: "+wrongServer, "cluster:80/IPv4: "+wrongServer),
		Entry("an endpoint on another network", SpecTimeout(time.Minute), "locality/strict/scopes",
			brokenWorld{sabotage: sendToServed("other-network")}, wrongServer),
		Entry("a headless service's pod that is rewritten on the way", SpecTimeout(time.Minute), "headless/direct/200",
			brokenWorld{sabotage: rules("a", func(c *netsim.Cluster) [][]string {
				return [][]string{{"nat", "PREROUTING", "-d", address(c, "v1"), "-j", "DNAT", "--to-destination", address(c, "v2")}}
			})}, "the way is as declared"),
		Entry("a target port of another pod", SpecTimeout(time.Minute), "ports/own-targets/50-50",
			brokenWorld{sabotage: toPort(8080)}, "client and server agree"),
		Entry("a port without a name that is taken for one that has it", SpecTimeout(time.Minute), "ports/own-targets/50-50",
			brokenWorld{told: named("named", func(s *scenario.Service) { s.Ports[0] = scenario.Port{Port: 80, Target: 8080} })}, wrongServer),
		Entry("a pod's own target that is not heeded", SpecTimeout(time.Minute), "ports/own-targets/50-50",
			brokenWorld{told: named("own", func(s *scenario.Service) { s.Endpoints[0].Ports = nil })}, "client and server agree"),
		Entry("the second address of a pod", SpecTimeout(time.Minute), "addresses/several/25-25-50",
			brokenWorld{sabotage: sendToSecond("v1")}, wrongServer),
		Entry("a pod that is not ready, chosen", SpecTimeout(time.Minute), "endpoints/not-ready/200",
			brokenWorld{told: allReady}, wrongServer),
		Entry("a pod that is not ready, left out where it is published", SpecTimeout(time.Minute), "endpoints/not-ready/200",
			brokenWorld{told: services(func(s *scenario.Service) { s.PublishNotReady = false })}, wrongServer),
		Entry("an endpoint of a family that has left, chosen", SpecTimeout(time.Minute), "clusterip/one-family-each/50-50",
			brokenWorld{told: services(func(s *scenario.Service) {
				s.Endpoints = []scenario.Endpoint{{Pod: "v1", Weight: 1}, {Pod: "v2", Weight: 1}, {Pod: "v3", Weight: 1}}
			})}, wrongServer),
		Entry("a weight of 0, chosen", SpecTimeout(time.Minute), "clusterip/weight/0-and-max",
			brokenWorld{told: weights(0, most)}, wrongServer),
	)

	DescribeTable("is refused by its shares", func(ctx SpecContext, name string, b brokenWorld, check string) {
		expectRefused(ctx, name, b, check)
	},
		Entry("two of the same zone, unevenly", SpecTimeout(time.Minute), "locality/failover/levels",
			brokenWorld{told: named("fortio", func(s *scenario.Service) { s.Endpoints[2].Weight = 2 })}, "share of same-zone"),
		Entry("the caller's own node before its zone", SpecTimeout(time.Minute), "locality/failover/zone",
			brokenWorld{told: services(func(s *scenario.Service) {
				s.Balance.Prefer = append(slices.Clip(s.Balance.Prefer), intent.ScopeSubzone, intent.ScopeNode)
			})}, "share of near"),
		Entry("a name whose first answer alone is used", SpecTimeout(time.Minute), "addresses/several/25-25-50",
			brokenWorld{told: named("by-name", func(s *scenario.Service) { s.Endpoints[0].ByName = false })}, "share of v1"),
		Entry("one family's endpoints, unevenly", SpecTimeout(time.Minute), "clusterip/one-family-each/50-50",
			brokenWorld{told: services(func(s *scenario.Service) { s.Endpoints[0].Weight = 2 })}, "share of v1"),
		Entry("the largest weight, taken for less", SpecTimeout(time.Minute), "clusterip/weight/0-and-max",
			brokenWorld{told: weights(most/9, most/5)}, "share of v1"),
	)
})

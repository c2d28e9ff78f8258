package istiod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// In Istio's own words: one service, two subsets of its pods.
const virtualService = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo.default.svc.cluster.local
  subsets: [{name: v1, labels: {app: v1}}, {name: v2, labels: {app: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo.default.svc.cluster.local]
  http:
  - match: [{headers: {x-canary: {exact: "yes"}}}]
    route: [{destination: {host: echo.default.svc.cluster.local, subset: v2}}]
  - route:
    - {destination: {host: echo.default.svc.cluster.local, subset: v1}, weight: 90}
    - {destination: {host: echo.default.svc.cluster.local, subset: v2}, weight: 10}
---
`

// handed is a load of requests from both clients that passes the waypoint.
func handed(conns, requests int, split map[string]float64) scenario.Load {
	return scenario.Load{
		From: []string{"client", "client2"}, Connections: conns, Requests: requests, Close: requests == 1,
		To: scenario.Target{Service: echoVIP, Port: 80, Family: scenario.IPv4},
		Want: scenario.Want{
			Outcome: scenario.Connected, Via: scenario.ViaWaypoint, Waypoint: "waypoint", Port: 8080, Split: split,
		},
	}
}

// declaredWay is the mesh with that service through a waypoint, or without one.
func declaredWay(waypoint bool) declared {
	const ports = "{name: http, port: 80, targetPort: 8080}"
	if !waypoint {
		return declared{
			yaml:   virtualService + service(echoVIP, "tier: web", ports),
			then:   func(ctx context.Context, _ *netsim.Cluster) error { return label(ctx, "tier", "web", "v1", "v2") },
			routes: map[string]map[string]float64{echoVIP + ":80": {"v1:8080": both, "v2:8080": both}},
		}
	}
	return declared{
		yaml: gateway("waypoint", "service") + virtualService + passing("echo", echoVIP, ports),
		then: func(ctx context.Context, c *netsim.Cluster) error {
			if err := label(ctx, "tier", "web", "v1", "v2"); err != nil {
				return err
			}
			if err := c.JoinGateway(ctx, "waypoint", "waypoint"); err != nil {
				return err
			}
			return awaitTable(ctx, c, "waypoint", `"weight":90`)
		},
		routes: ledTo("waypoint"),
	}
}

// judgedWay judges loads on such a mesh.
func judgedWay(ctx SpecContext, d declared, loads ...scenario.Load) report.Result {
	GinkgoHelper()
	s := scenario.Scenario{Name: "virtualservice", Summary: "a split in Istio's own words", Topology: wayfarers()}
	for _, l := range loads {
		s.Phases = append(s.Phases, scenario.Phase{Loads: []scenario.Load{l}})
	}
	s.Objects.Services = []scenario.Service{{
		Name: echoVIP, Family: scenario.IPv4, Ports: []scenario.Port{{Port: 80, Target: 8080, Name: "http"}}, Waypoint: "waypoint",
	}}
	if d.codec != "" {
		s.Objects.Waypoints = []scenario.Waypoint{{Name: "waypoint", Pods: []string{"waypoint"}, Codec: d.codec}}
	}
	forgetLater("waypoint")
	r := verify.Run(ctx, s, verify.Options{World: "netsim+istiod", Open: d.opener}, 1)
	if r.Verdict == report.NotRun {
		Skip("NOT RUN: " + r.Reason)
	}
	return r
}

var _ = Describe("a waypoint that istiod configures", Label(byWaypoint), func() {
	It("splits by a VirtualService with subsets: by request, by connection, by header", func(ctx SpecContext) {
		header := handed(4, 50, map[string]float64{"v2": 1})
		header.Headers = map[string]string{"x-canary": "yes"}
		share := map[string]float64{"v1": .9, "v2": .1}
		r := judgedWay(ctx, declaredWay(true), handed(8, 750, share), handed(scenario.MinConnections, 1, share), header)
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
	}, SpecTimeout(4*time.Minute))

	It("is what splits: without it connections are shared evenly, the control", func(ctx SpecContext) {
		r := judgedWay(ctx, declaredWay(false), handed(8, 750, map[string]float64{"v1": .9, "v2": .1}))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("the socket's peer is the waypoint"))
		Expect(explain(r)).To(ContainSubstring("requests: share of v1"))
	}, SpecTimeout(4*time.Minute))

	It("is judged by its share: 90/10 is not 85/15, the control", func(ctx SpecContext) {
		r := judgedWay(ctx, declaredWay(true), handed(8, 750, map[string]float64{"v1": .85, "v2": .15}))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(r.Failed()).To(HaveEach(HaveField("Name", ContainSubstring("requests: share of"))))
	}, SpecTimeout(4*time.Minute))

	It("says what was changed of istiod's configuration", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		s := must(c.WaypointStatus(ctx, "waypoint"))
		Expect(s.Services).To(ContainElement("echo.default.svc.cluster.local"))
		counted := map[string]int{}
		for _, ch := range s.Changes {
			counted[ch.Kind] = ch.Count
		}
		say("changes to a live istiod's configuration: %v", counted)
		for _, kind := range []string{"drop-peer-metadata", "drop-stats", "hashable-string", "route-by-name", "hand-off-listener"} {
			Expect(counted).To(HaveKeyWithValue(kind, BeNumerically(">", 0)))
		}
		Expect(s.Source.Problem).To(BeEmpty())
	}, SpecTimeout(2*time.Minute))

	It("refuses by name what a stock Envoy does not know, and goes on with what it has", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{}, "waypoint")
		Expect(get(ctx, c, echoURL).Failed).To(BeZero())
		rule(ctx, c, "EnvoyFilter", "alien", `
targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]
configPatches:
- applyTo: HTTP_FILTER
  match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
  patch:
    operation: INSERT_FIRST
    value:
      name: alien
      typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/io.istio.alien.Config, value: {}}
`)
		Eventually(ctx, func() string { return must(c.WaypointStatus(ctx, "waypoint")).Source.Problem }).
			WithTimeout(patience).Should(ContainSubstring("alien"))
		Expect(get(ctx, c, echoURL).Failed).To(BeZero())
	}, SpecTimeout(2*time.Minute))
})

// awaitTable waits until the configuration of a waypoint's Envoy has a text, written
// without spaces.
func awaitTable(ctx context.Context, c *netsim.Cluster, pod, text string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last []byte
	for {
		var dense bytes.Buffer
		dump, err := c.WaypointConfig(ctx, pod)
		if err == nil && json.Compact(&dense, dump) == nil {
			if last = dense.Bytes(); bytes.Contains(last, []byte(text)) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the configuration of %s has no %s (%s): %w", pod, text, kept(pod+"-config.json", last), errors.Join(err, ctx.Err()))
		}
	}
}

// kept leaves what a failure is to be understood by beside the logs, and says where.
func kept(name string, data []byte) string {
	dir := os.Getenv("DUOMESH_OUT")
	if dir == "" || len(data) == 0 {
		return fmt.Sprintf("%d bytes", len(data))
	}
	at := filepath.Join(dir, name)
	if err := os.WriteFile(at, data, 0o600); err != nil {
		return err.Error()
	}
	return "it is in " + at
}

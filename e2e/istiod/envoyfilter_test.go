package istiod

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// listenerOf finds a listener in Envoy's dump of its configuration, nil when it has none
// of the name.
func listenerOf(dump []byte, name string) any {
	var all struct {
		Configs []struct {
			DynamicListeners []struct {
				Name        string
				ActiveState struct{ Listener any } `json:"active_state"`
			} `json:"dynamic_listeners"`
		}
	}
	if json.Unmarshal(dump, &all) != nil {
		return nil
	}
	for _, c := range all.Configs {
		for _, l := range c.DynamicListeners {
			if l.Name == name {
				return l.ActiveState.Listener
			}
		}
	}
	return nil
}

// ownPorts gives the port of the sample to it: the waypoint's own listener for PROXY
// headers goes elsewhere.
var ownPorts = []string{"--proxy-port", "15059"}

// sampled applies a sample of EnvoyFilters, and returns what istiod makes of it.
func sampled(ctx SpecContext, c *netsim.Cluster, form string) (listener any) {
	GinkgoHelper()
	applySample(ctx, c, form)
	Eventually(ctx, func() any {
		listener = listenerOf(must(c.WaypointConfig(ctx, "waypoint")), "duomesh-proxy-v2")
		return listener
	}).WithTimeout(patience).ShouldNot(BeNil())
	Expect(must(c.WaypointStatus(ctx, "waypoint")).Source.Problem).To(BeEmpty())
	return listener
}

func applySample(ctx SpecContext, c *netsim.Cluster, form string) {
	GinkgoHelper()
	data, err := os.ReadFile(filepath.Join("..", "..", "samples", "envoyfilter", form+".yaml"))
	Expect(err).NotTo(HaveOccurred())
	apply(ctx, c, string(data))
}

// withoutGuard is an Envoy whose runtime has the guard off, as ProxyConfig's
// runtimeValues would have it.
func withoutGuard() string {
	GinkgoHelper()
	path := filepath.Join(GinkgoT().TempDir(), "envoy")
	script := fmt.Sprintf("#!/bin/sh\nexec %s \"$@\" --config-yaml '{layered_runtime: {layers: [{name: proxy_config, static_layer: {%s: false}}]}}'\n",
		findEnvoy(), "envoy.reloadable_features.enable_send_rst_on_user_space_socket")
	Expect(os.WriteFile(path, []byte(script), 0o700)).To(Succeed())
	return path
}

// What a real istiod makes of the samples for waypoints whose image is another's is in a
// golden file, and a stock Envoy takes it. DUOMESH_GOLDEN=write writes the file anew.
var _ = Describe("the samples of EnvoyFilters", Label(byWaypoint), func() {
	const golden = "testdata/envoyfilter-proxy-v2.json"

	It("reach a waypoint by targetRefs", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{WaypointArgs: ownPorts}, "waypoint")
		got := sampled(ctx, c, "proxy-v2")
		if os.Getenv("DUOMESH_GOLDEN") == "write" {
			text, err := json.MarshalIndent(got, "", "  ")
			Expect(err).NotTo(HaveOccurred())
			Expect(os.MkdirAll("testdata", 0o755)).To(Succeed())
			Expect(os.WriteFile(golden, append(text, '\n'), 0o644)).To(Succeed())
		}
		var want any
		text, err := os.ReadFile(golden)
		Expect(err).NotTo(HaveOccurred())
		Expect(json.Unmarshal(text, &want)).To(Succeed())
		Expect(got).To(Equal(want))
	}, SpecTimeout(4*time.Minute))

	It("do not reach one by workloadSelector, the form before Istio 1.27", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{WaypointArgs: ownPorts}, "waypoint")
		applySample(ctx, c, "proxy-v2-before-1.27")
		rule(ctx, c, "VirtualService", "echo", split(90)) // what comes later has come
		Expect(awaitTable(ctx, c, "waypoint", `"weight":90`)).To(Succeed())
		Expect(listenerOf(must(c.WaypointConfig(ctx, "waypoint")), "duomesh-proxy-v2")).To(BeNil())
	}, SpecTimeout(4*time.Minute))

	It("serve what is handed over: 90/10, and each answer of a connection that closes", func(ctx SpecContext) {
		if findEnvoy() == "" {
			Skip("NOT RUN: no Envoy (make tools)")
		}
		const closing = 3000
		c := throughBy(ctx, netsim.Config{WaypointArgs: ownPorts, AgentArgs: byHeader, Envoy: withoutGuard()}, headerPort, "waypoint")
		sampled(ctx, c, "proxy-v2")
		rule(ctx, c, "VirtualService", "echo", split(90))
		Expect(awaitTable(ctx, c, "waypoint", `"weight":90`)).To(Succeed())
		entered := func() uint64 {
			return sum(must(c.WaypointCounters(ctx, "waypoint", `^listener\.duomesh-proxy-v2\.downstream_cx_total$`)))
		}
		before := entered()
		r := send(ctx, c, "client", web.Task{Do: "http", URL: echoURL, Count: 750, Conns: 8})
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(scenario.CheckSplit("requests:", map[string]float64{"v1": .9, "v2": .1}, r.Got)).To(HaveEach(HaveField("Verdict", report.Pass)))
		Expect(scenario.CheckSplit("the control:", map[string]float64{"v1": .85, "v2": .15}, r.Got)).
			To(ContainElement(HaveField("Verdict", report.Fail)))
		Expect(entered()-before).To(BeNumerically("==", 8), "connections that have passed the sample's listener")
		say("through the EnvoyFilter: %v of 6000 requests on 8 connections", r.Got)

		r = send(ctx, c, "client", web.Task{Do: "http", URL: echoURL, Count: closing / 4, Conns: 4, Close: true})
		Expect(r.Failed).To(BeZero(), r.First)
		Expect(r.Got["v1"] + r.Got["v2"]).To(Equal(closing))
		say("… %d of %d answers on connections that close, the guard off", r.Got["v1"]+r.Got["v2"], closing)

		aborted := send(ctx, c, "client", web.Task{Do: "abort", Address: echoVIP + ":80", Count: 40})
		Expect(aborted.Failed).To(BeZero(), aborted.First)
		left := uint64(0)
		for deadline := time.Now().Add(4 * time.Second); ; <-time.After(50 * time.Millisecond) {
			left = sum(must(c.WaypointCounters(ctx, "waypoint", `^listener\.duomesh-proxy-v2\.downstream_cx_active$`)))
			if left == 0 || time.Now().After(deadline) {
				break
			}
		}
		say("… of %d connections that clients broke off in 12 ways %d are left after at most 4 s", aborted.Dials, left)
		Expect(left).To(BeNumerically("<=", aborted.Dials/20), "docs/migrate-from-kmesh.md says a few in a hundred")
		Expect(get(ctx, c, echoURL).Failed).To(BeZero())
	}, SpecTimeout(4*time.Minute))
})

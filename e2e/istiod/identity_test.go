package istiod

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/netsim"
)

// person is who a client is: the ServiceAccount of its pod.
type person struct{ pod, namespace, account string }

var (
	alice = person{"client", "default", "alice"}
	evil  = person{"client2", "evil", "mallory"}
)

// principals are the rules that ask who a client is, or do not, and what HBONE makes of
// them is the measure.
var principals = []struct{ name, spec string }{
	{"DENY by source principal", "action: DENY\nrules: [{from: [{source: {principals: [cluster.local/ns/default/sa/alice]}}]}]"},
	{"DENY by namespace", "action: DENY\nrules: [{from: [{source: {namespaces: [evil]}}]}]"},
	{"DENY by all but a namespace", "action: DENY\nrules: [{from: [{source: {notNamespaces: [default]}}]}]"},
	{"DENY by method", "action: DENY\nrules: [{to: [{operation: {methods: [POST]}}]}]"},
	{"ALLOW by principal", "action: ALLOW\nrules: [{from: [{source: {principals: [cluster.local/ns/default/sa/alice]}}]}]"},
	{"ALLOW by principal and method", "action: ALLOW\nrules: [{from: [{source: {principals: [\"*/sa/mallory\"]}}], to: [{operation: {methods: [GET]}}]}]"},
	{"ALLOW by service account", "action: ALLOW\nrules: [{from: [{source: {serviceAccounts: [default/alice]}}]}]"},
}

// become makes a pod one of another namespace and ServiceAccount in Kubernetes.
func become(ctx SpecContext, c *netsim.Cluster, p person) {
	GinkgoHelper()
	account := fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, namespace: %s}\n", p.account, p.namespace)
	if p.namespace != "default" {
		account = fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", p.namespace) + "---\n" + account
	}
	Eventually(ctx, func() error { return plane.Stack().ApplyYAML(ctx, account) }).WithTimeout(patience).Should(Succeed())
	h := must(c.Pod(p.pod))
	Expect(plane.Stack().RemovePod(ctx, "default", p.pod)).To(Succeed())
	pod := controlplane.Pod{Namespace: p.namespace, Name: p.pod, Node: h.Node, ServiceAccount: p.account, Labels: map[string]string{"app": p.pod}}
	pod.Addresses = append(pod.Addresses, h.IPv4)
	if h.IPv6.IsValid() {
		pod.Addresses = append(pod.Addresses, h.IPv6)
	}
	Eventually(ctx, func() error { return plane.Stack().AddPod(ctx, pod) }).WithTimeout(patience).Should(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(plane.Stack().RemovePod(ctx, p.namespace, p.pod)).To(Succeed()) })
}

// tunnel is the way of a person's HBONE through a waypoint to echo.
func tunnel(ctx SpecContext, c *netsim.Cluster, p person) *web.Tunnel {
	GinkgoHelper()
	token := filepath.Join(GinkgoT().TempDir(), p.account)
	Expect(plane.Stack().WriteToken(ctx, controlplane.Token{
		Namespace: p.namespace, ServiceAccount: p.account, Audiences: []string{controlplane.Audience},
	}, token)).To(Succeed())
	return &web.Tunnel{
		Istiod: plane.Stack().XDSAddress(), Token: token, Roots: plane.Stack().RootsFile(), Cluster: controlplane.ClusterID,
		Waypoint: address(c, "waypoint") + ":15008", Authority: echoVIP + ":80",
	}
}

var _ = Describe("rules that ask who a client is", Label(byWaypoint), func() {
	DescribeTable("never let through by the hand-off what they deny by HBONE", func(ctx SpecContext, byAddress bool) {
		config := netsim.Config{}
		if byAddress {
			config.WaypointArgs = []string{"--identity", "address"}
		}
		c := through(ctx, config, "waypoint")
		people := []person{alice, evil}
		tunnels := map[person]*web.Tunnel{}
		for _, p := range people {
			become(ctx, c, p)
			tunnels[p] = tunnel(ctx, c, p)
		}
		served, equal, asked := 0, 0, 0
		for i, rules := range principals {
			name := fmt.Sprintf("who-%d", i) // its own: the one before it may not be gone yet
			policy := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s}\nspec:\n%s\n",
				name, indented(onEcho+rules.spec))
			DeferCleanup(func() { Expect(remove(policy)).To(Succeed()) }) // where this one fails
			Expect(plane.Stack().ApplyYAML(ctx, policy)).To(Succeed())
			Expect(awaitTable(ctx, c, "waypoint", "policy["+name+"]")).To(Succeed())
			for _, p := range people {
				for _, method := range []string{"GET", "POST"} {
					task := web.Task{Do: "http", URL: echoURL, Method: method, Count: 10}
					byTunnel := task
					byTunnel.HBONE = tunnels[p]
					var handed, through web.Result
					what := func() string {
						return fmt.Sprintf("%s: %s by %s: hand-off %v, HBONE %v", rules.name, method, p.account, handed.Got, through.Got)
					}
					// Envoy takes the two listeners' rules one after the other: what differs
					// must not go on to.
					Eventually(ctx, func() bool {
						handed, through = send(ctx, c, p.pod, task), send(ctx, c, p.pod, byTunnel)
						as := allServed(handed) == allServed(through)
						return as || !byAddress && !allServed(handed)
					}).WithTimeout(patience).Should(BeTrue(), what)
					Expect(through.Got).NotTo(HaveKey(HavePrefix("error")), what())
					asked++
					if allServed(handed) {
						served++
					}
					if allServed(handed) == allServed(through) {
						equal++
					}
				}
			}
			Expect(remove(policy)).To(Succeed())
			Eventually(ctx, func() int { return get(ctx, c, echoURL).Failed }).WithTimeout(patience).Should(BeZero(), rules.name)
		}
		say("identity by address %t: %d combinations of rule, source and method: %d as by HBONE, %d served", byAddress, asked, equal, served)
		Expect(served).To(BeNumerically(">", 0), "the control: nothing is served at all")
		Expect(served).To(BeNumerically("<", asked), "the control: nothing is refused")
	},
		Entry("where what is handed over has no identity", SpecTimeout(4*time.Minute), false),
		Entry("where its identity is that of its address", SpecTimeout(4*time.Minute), true),
	)

	It("refuse a source that istiod does not know, and follow an address that another gets", func(ctx SpecContext) {
		c := through(ctx, netsim.Config{WaypointArgs: []string{"--identity", "address"}}, "waypoint")
		become(ctx, c, alice)
		become(ctx, c, evil)
		rule(ctx, c, "AuthorizationPolicy", "who", onEcho+principals[4].spec)
		Expect(awaitTable(ctx, c, "waypoint", "policy[who]")).To(Succeed())
		by := func(p person) web.Result { return send(ctx, c, p.pod, web.Task{Do: "http", URL: echoURL}) }
		Eventually(ctx, func() int { return by(alice).Failed }).WithTimeout(patience).Should(BeZero())
		Expect(by(evil).Got).To(HaveKey("403"))
		Expect(plane.Stack().RemovePod(ctx, alice.namespace, alice.pod)).To(Succeed())
		Eventually(ctx, func() map[string]int { return by(alice).Got }).WithTimeout(patience).
			Should(And(HaveLen(1), HaveKey(HavePrefix("error"))), "its address is nobody's any more")
		refused := sum(must(c.WaypointCounters(ctx, "waypoint", `handoff_needs_identity\..*downstream_cx_total$`)))
		Expect(refused).To(BeNumerically(">", 0), "it was refused, and not counted")
		become(ctx, c, person{alice.pod, "evil", "mallory"})
		Eventually(ctx, func() map[string]int { return by(alice).Got }).WithTimeout(patience).Should(HaveKey("403"))
	}, SpecTimeout(2*time.Minute))
})

// allServed reports whether every request was answered with 200.
func allServed(r web.Result) bool { return r.Failed == 0 && len(r.Got) > 0 }

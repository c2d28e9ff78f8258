package istiod

import (
	"net/netip"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

func vip(c *netsim.Cluster) netip.AddrPort {
	GinkgoHelper()
	return must(c.Resolve(scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4}))
}

// reach makes one connection from the client and returns its error's name.
func reach(ctx SpecContext, c *netsim.Cluster, to netip.AddrPort) string {
	GinkgoHelper()
	conns := must(c.Exec(ctx, "client", traffic.Load{To: to, Connections: 1, Workers: 1, Bytes: 16}, nil))
	Expect(conns).To(HaveLen(1))
	return conns[0].Errno
}

const policies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec: {selector: {matchLabels: {app: v1}}, action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: default}
spec: {selector: {matchLabels: {app: v2}}, mtls: {mode: STRICT}}
`

var _ = Describe("policies", func() {
	It("are named as not enforced, one by one", func(ctx SpecContext) {
		c := cluster(ctx, fleet())
		Expect(c.Apply(ctx, weights(1, 1))).To(Succeed())
		Expect(must(statusOf(ctx, c)).Source.Unenforced).To(BeEmpty(), "the control: there is none yet")
		apply(ctx, c, policies)
		named := func() map[string]int {
			all := map[string]int{}
			for _, u := range must(statusOf(ctx, c)).Source.Unenforced {
				all[u.Policy] = u.Workloads
			}
			return all
		}
		Eventually(ctx, named).Should(Equal(map[string]int{
			"default/nobody": 1, "istio-system/istio_converted_static_strict": 1,
		}))
		client := api.NewClient(*c.State().Nodes[0].Admin)
		defer client.Close()
		why := must(client.Explain(ctx, "default/client", vip(c).String(), "tcp")).Why
		Expect(why).To(ContainElement(ContainSubstring("NOT ENFORCED")))
		Expect(reach(ctx, c, vip(c))).To(BeEmpty())
	}, SpecTimeout(time.Minute))

	It("with =refuse, refuse what they name, and nothing else", func(ctx SpecContext) {
		c := must(openWith(ctx, netsim.Config{AgentArgs: []string{"--unenforced-policy=refuse"}}, fleet()))
		DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
		client := api.NewClient(*c.State().Nodes[0].Admin)
		defer client.Close()
		refused := func() uint64 { return must(client.Exits(ctx)).Exits[string(intent.RefusePolicy)] }
		Expect(c.Apply(ctx, weights(1, 0))).To(Succeed())
		v1, v3 := podAt(c, "v1"), podAt(c, "v3")
		for _, to := range []netip.AddrPort{vip(c), v1, v3} {
			Expect(reach(ctx, c, to)).To(BeEmpty(), "the control: no policy names %s yet", to)
		}
		before := refused()
		apply(ctx, c, policies)
		Eventually(ctx, func() string { return reach(ctx, c, vip(c)) }).Should(Equal("ECONNREFUSED"))
		Expect(reach(ctx, c, v1)).To(Equal("ECONNREFUSED"), "a workload that a policy names, by its own address")
		Expect(reach(ctx, c, v3)).To(BeEmpty(), "a workload that no policy names")
		Expect(refused()).To(BeNumerically(">=", before+2), "refusals are counted")
		Expect(must(client.Explain(ctx, "default/client", v1.String(), "tcp")).Exit).To(Equal(string(intent.RefusePolicy)))
	}, SpecTimeout(time.Minute))
})

// podAt is where a pod of the fleet serves.
func podAt(c *netsim.Cluster, name string) netip.AddrPort {
	GinkgoHelper()
	return netip.AddrPortFrom(must(c.Pod(name)).IPv4, 8080)
}

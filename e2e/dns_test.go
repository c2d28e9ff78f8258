package e2e

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// nameService is a name server of two pods behind one address of each family, for
// datagrams and connections.
func nameService() scenario.Objects {
	return scenario.Objects{Services: []scenario.Service{{
		Name: "names", Family: scenario.Dual,
		Ports: []scenario.Port{
			{Port: 53, Target: 5353, Protocol: scenario.UDP},
			{Port: 53, Target: 5353, Protocol: scenario.TCP},
		},
		Endpoints: []scenario.Endpoint{{Pod: "ns1", Weight: 1}, {Pod: "ns2", Weight: 1}},
	}}}
}

// dnsmasq starts a real name server in a pod. It is the cluster's to end.
func dnsmasq(ctx context.Context, c *netsim.Cluster, pod string) {
	GinkgoHelper()
	h := must(c.Pod(pod))
	_, err := c.Start(context.WithoutCancel(ctx), pod, netsim.Command{Argv: []string{
		"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
		"--user=root", "--port=5353",
		// Without these it answers neighbours of its own subnet only.
		"--listen-address=" + h.IPv4.String(), "--listen-address=" + h.IPv6.String(), "--bind-interfaces",
		"--edns-packet-max=512", "--cache-size=0",
		"--address=/web.test/192.0.2.7", "--address=/web.test/2001:db8::7",
		"--txt-record=large.test," + strings.Repeat("a", 250) + "," + strings.Repeat("b", 250) + "," + strings.Repeat("c", 250),
		"--txt-record=who.test," + pod,
	}})
	Expect(err).NotTo(HaveOccurred())
	Eventually(ctx, func() string {
		return dig(ctx, c, pod, "@"+h.IPv4.String(), "-p", "5353", "web.test")
	}).Should(Equal("192.0.2.7"), "the name server does not answer in its own pod")
}

// dig asks from a pod, once, and returns what it printed.
func dig(ctx context.Context, c *netsim.Cluster, pod string, args ...string) string {
	GinkgoHelper()
	var out bytes.Buffer
	p := must(c.Start(ctx, pod, netsim.Command{
		Argv: append([]string{"dig", "-r", "+short", "+tries=1", "+timeout=5"}, args...), Stdout: &out, Stderr: &out,
	}))
	_ = p.Wait() // what it says of a failure is in its output
	return strings.TrimSpace(out.String())
}

var _ = Describe("a real name server behind a service address", Label("netsim"), func() {
	var c *netsim.Cluster
	var vips []netip.Addr
	BeforeEach(func(ctx SpecContext) {
		for _, program := range []string{"dig", "dnsmasq"} {
			if _, err := exec.LookPath(program); err != nil {
				Skip("NOT RUN: " + err.Error())
			}
		}
		c = must(netsim.Open(ctx, netsim.Config{}, scenario.Topology{Mesh: scenario.Duomesh, Nodes: []scenario.Node{
			{Name: "a", Pods: []scenario.Pod{{Name: "client", Managed: true}, {Name: "bystander"}, {Name: "ns1"}}},
			{Name: "b", Pods: []scenario.Pod{{Name: "ns2"}}},
		}}))
		DeferCleanup(c.Close)
		Expect(c.Apply(ctx, nameService())).To(Succeed())
		dnsmasq(ctx, c, "ns1")
		dnsmasq(ctx, c, "ns2")
		vips = nil
		for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6} {
			vips = append(vips, must(c.Resolve(scenario.Target{Service: "names", Port: 53, Family: f})).Addr())
		}
	}, NodeTimeout(time.Minute))

	It("answers by datagrams and by connections, over both families", func(ctx SpecContext) {
		for _, vip := range vips {
			server := "@" + vip.String()
			Expect(dig(ctx, c, "client", server, "web.test")).To(Equal("192.0.2.7"))
			Expect(dig(ctx, c, "client", server, "web.test", "AAAA")).To(Equal("2001:db8::7"))
			Expect(dig(ctx, c, "client", server, "+tcp", "web.test")).To(Equal("192.0.2.7"))
			By("an answer that does not fit is asked for again by a connection")
			Expect(dig(ctx, c, "client", server, "+noedns", "+ignore", "large.test", "TXT")).NotTo(ContainSubstring("ccc"))
			Expect(dig(ctx, c, "client", server, "+noedns", "large.test", "TXT")).To(ContainSubstring("ccc"))
		}
	}, SpecTimeout(time.Minute))

	It("is both pods, by turns", func(ctx SpecContext) {
		seen := map[string]bool{}
		Eventually(ctx, func() int {
			seen[dig(ctx, c, "client", "@"+vips[0].String(), "who.test", "TXT")] = true
			return len(seen)
		}).Should(Equal(2))
		Expect(seen).To(HaveKey(`"ns1"`))
		Expect(seen).To(HaveKey(`"ns2"`))
	}, SpecTimeout(time.Minute))

	It("does not answer a pod that is not in the mesh: the control", func(ctx SpecContext) {
		Expect(dig(ctx, c, "bystander", "@"+vips[0].String(), "web.test")).NotTo(ContainSubstring("192.0.2.7"))
		Expect(dig(ctx, c, "bystander", "@"+vips[0].String(), "+tcp", "web.test")).NotTo(ContainSubstring("192.0.2.7"))
	}, SpecTimeout(time.Minute))
})

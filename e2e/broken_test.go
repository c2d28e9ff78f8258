package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/coreos/go-iptables/iptables"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// brokenWorld is a cluster that somebody breaks from outside once the first
// objects are in the kernel. Neither the expectation nor the product knows.
type brokenWorld struct {
	*netsim.Cluster
	sabotage func(ctx context.Context, c *netsim.Cluster) error
	// told is what the mesh is told in place of declared objects; nil changes nothing.
	told func(o scenario.Objects) scenario.Objects
	// deaf makes the world say yes to every later change and do nothing.
	deaf bool
	// watched breaks something once the judge watches; nil breaks nothing.
	watched func(c *netsim.Cluster) error
	// client and server falsify what the two witnesses report; nil leaves it.
	client func(conns []traffic.Conn) []traffic.Conn
	server func(served map[string][]traffic.Conn)
}

// Apply breaks the mesh after it was brought up as declared.
func (b *brokenWorld) Apply(ctx context.Context, o scenario.Objects) error {
	if b.told != nil {
		o = b.told(o)
	}
	if err := b.Cluster.Apply(ctx, o); err != nil {
		return err
	}
	if b.sabotage == nil {
		return nil
	}
	return b.sabotage(ctx, b.Cluster)
}

// Do does nothing in a deaf world.
func (b *brokenWorld) Do(ctx context.Context, a scenario.Action) error {
	if b.deaf {
		return nil
	}
	if apply, is := a.(scenario.Apply); is && b.told != nil {
		a = scenario.Apply{Objects: b.told(apply.Objects)}
	}
	return b.Cluster.Do(ctx, a)
}

// Exec hands the clients' reports on as they are falsified.
func (b *brokenWorld) Exec(ctx context.Context, pod string, l traffic.Load, seen func(traffic.Conn)) ([]traffic.Conn, error) {
	if b.watched != nil {
		if err := b.watched(b.Cluster); err != nil {
			return nil, err
		}
	}
	conns, err := b.Cluster.Exec(ctx, pod, l, seen)
	if b.client != nil {
		conns = b.client(conns)
	}
	return conns, err
}

// Served hands the servers' reports on as they are falsified.
func (b *brokenWorld) Served(ctx context.Context) (map[string][]traffic.Conn, error) {
	served, err := b.Cluster.Served(ctx)
	if b.server != nil {
		b.server(served)
	}
	return served, err
}

func openBroken(b brokenWorld) scenario.Opener {
	return func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
		c, err := netsim.Open(ctx, netsim.Config{Pinned: true, Waypoint: waypointExe, Envoy: envoyExe}, t)
		if err != nil {
			return nil, err
		}
		world := b
		world.Cluster = c
		return &world, nil
	}
}

// clientNode is the node of the clients in all named scenarios.
const clientNode = "a"

// pinsOf is where the engine of the clients' node pins.
func pinsOf(c *netsim.Cluster) (string, error) {
	n, err := c.Node(clientNode)
	return dataplane.Pins(n.BPFFS), err
}

// detach ends links of the engine by their pins.
func detach(programs ...string) func(context.Context, *netsim.Cluster) error {
	return func(_ context.Context, c *netsim.Cluster) error {
		pins, err := pinsOf(c)
		if err != nil {
			return err
		}
		for _, p := range programs {
			l, err := link.LoadPinnedLink(filepath.Join(pins, "link_"+p), nil)
			if err != nil {
				return err
			}
			if err := l.Detach(); err != nil {
				return fmt.Errorf("detach %s: %w", p, err)
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}

// rules adds packet filter rules to a node.
func rules(node string, specs func(c *netsim.Cluster) [][]string) func(context.Context, *netsim.Cluster) error {
	return func(_ context.Context, c *netsim.Cluster) error {
		n, err := c.Node(node)
		if err != nil {
			return err
		}
		return filterIn(n.Netns, specs(c)...)
	}
}

// filterIn appends rules, each {table, chain, rule...}, in a network namespace.
func filterIn(netns *os.File, rules ...[]string) error {
	return kernel.InNetns(netns, func() error {
		ipt, err := iptables.New()
		if err != nil {
			return err
		}
		for _, r := range rules {
			if err := ipt.Append(r[0], r[1], r[2:]...); err != nil {
				return err
			}
		}
		return nil
	})
}

// refuseInPod ends the redirection and lets the pod's own packet filter refuse:
// the application sees the same error, and no packet leaves the pod.
func refuseInPod(ctx context.Context, c *netsim.Cluster) error {
	h, err := c.Pod("client")
	if err != nil {
		return err
	}
	err = filterIn(h.Netns, []string{"filter", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "REJECT", "--reject-with", "tcp-reset"})
	return errors.Join(err, detach("mesh_connect4")(ctx, c))
}

func address(c *netsim.Cluster, pod string) string {
	h, err := c.Pod(pod)
	if err != nil {
		return err.Error()
	}
	return h.IPv4.String()
}

// bypass connects to the service from the client's namespace, but outside of every
// cgroup of the cluster: the mesh does not see it, the wire does.
func bypass(ctx context.Context, c *netsim.Cluster) error {
	h, err := c.Pod("client")
	if err != nil {
		return err
	}
	vip, err := c.Resolve(scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4})
	if err != nil {
		return err
	}
	go kernel.InNetns(h.Netns, func() error { return knock(ctx, vip) })
	return nil
}

// knockEvery is the pace of knock: a refused dial takes microseconds, and a loop of
// them fills the judge's ring, which makes its verdict inconclusive.
const knockEvery = 5 * time.Millisecond

// knock dials until ctx is done, once in knockEvery; the answer does not matter.
func knock(ctx context.Context, to netip.AddrPort) error {
	pace := time.NewTicker(knockEvery)
	defer pace.Stop()
	for {
		if err := dialOnce(to); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
}

// extra makes connections that no client reports.
func extra(ctx context.Context, c *netsim.Cluster) error {
	vip, err := c.Resolve(scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4})
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			if _, err := c.Exec(ctx, "client", traffic.Load{To: vip, Connections: 10, Workers: 1}, nil); err != nil {
				return
			}
		}
	}()
	return nil
}

// expectRefused runs a scenario in a broken world: the named check must fail.
func expectRefused(ctx context.Context, name string, b brokenWorld, check string) {
	GinkgoHelper()
	s, found := scenario.Find(name)
	Expect(found).To(BeTrue())
	expectRefusedIn(ctx, s, b, check)
}

// expectRefusedIn is expectRefused for a scenario that has been changed: each of the
// checks must fail.
func expectRefusedIn(ctx context.Context, s scenario.Scenario, b brokenWorld, checks ...string) {
	GinkgoHelper()
	r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openBroken(b)}, 1)
	if r.Verdict == report.NotRun {
		Skip("NOT RUN: " + r.Reason)
	}
	Expect(r.Verdict).To(Equal(report.Fail), explain(r))
	var names []string
	for _, f := range r.Failed() {
		names = append(names, f.Name)
	}
	for _, check := range checks {
		Expect(names).To(ContainElement(ContainSubstring(check)), explain(r))
	}
}

var _ = Describe("a mesh broken from outside", Label("netsim"), func() {
	DescribeTable("is refused", func(ctx SpecContext, sabotage func(context.Context, *netsim.Cluster) error, check string) {
		expectRefused(ctx, "clusterip/weight/90-10", brokenWorld{sabotage: sabotage}, check)
	},
		Entry("connect program detached", detach("mesh_connect4"), "the application saw what is declared"),
		Entry("connect program detached, by the packets", detach("mesh_connect4"), "the first packet went as declared"),
		Entry("getpeername program detached", detach("mesh_getpeername4"), "getpeername answers the asked address"),
		Entry("50/50 instead of 90/10 in the pinned slots", editSlots(func(slot []byte) {
			copy(slot[secondAddr:], slot[firstAddr:firstAddr+16])
		}), "share of v1"),
		Entry("85/15 instead of 90/10 in the pinned slots", editSlots(eightyFive), "share of v1"),
		Entry("slots lead to a pod that is not declared", sendTo("v3"), "the application saw what is declared"),
		Entry("slots emptied: refused by the mesh", editSlots(func(slot []byte) { clear(slot) }), "the application saw what is declared"),
		Entry("unmanaged behind the engine's back", func(_ context.Context, c *netsim.Cluster) error {
			return eachEntry(c, "pods", func(m *ebpf.Map, key, cookie []byte) error {
				if nativeU64(cookie) == 0 {
					return nil
				}
				return m.Put(key, make([]byte, len(cookie)))
			})
		}, "packets of client to"),
		Entry("a node that sends packets for v2 elsewhere", rules("a", func(c *netsim.Cluster) [][]string {
			return [][]string{{"nat", "PREROUTING", "-d", address(c, "v2"), "-j", "DNAT", "--to-destination", address(c, "v1")}}
		}), "the socket's peer is as declared"),
		Entry("a node that hides the client's address", rules("a", func(c *netsim.Cluster) [][]string {
			return [][]string{{"nat", "POSTROUTING", "-s", address(c, "client"), "-j", "MASQUERADE"}}
		}), "the server sees the client's own address"),
		Entry("a process of the pod outside the mesh's cgroup", bypass, "packets of client to"),
		Entry("connections that no client reports", extra, "every connect that the kernel saw was reported"),
	)

	DescribeTable("is refused when a witness says something else", func(ctx SpecContext, b brokenWorld, check string) {
		expectRefused(ctx, "clusterip/weight/90-10", b, check)
	},
		Entry("a client that asked for another port", brokenWorld{client: func(conns []traffic.Conn) []traffic.Conn {
			conns[0].Asked = netip.AddrPortFrom(conns[0].Asked.Addr(), 81)
			return conns
		}}, "client and kernel agree on what was asked"),
		Entry("a client that keeps a connection to itself", brokenWorld{client: func(conns []traffic.Conn) []traffic.Conn {
			return conns[1:]
		}}, "every declared connection was reported"),
		Entry("a server that keeps a connection to itself", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v1"] = served["v1"][1:]
		}}, "client and server agree"),
		Entry("a server that names another socket", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v1"][0].Cookie++
		}}, "the server's kernel saw it arrive"),
		Entry("a server that tells of a connection that nobody made", brokenWorld{server: func(served map[string][]traffic.Conn) {
			served["v1"] = append(served["v1"], traffic.Conn{Role: traffic.Server, ID: 1 << 60})
		}}, "every connection that servers saw was made by a client"),
	)

	DescribeTable("is refused in scenarios of other kinds", func(ctx SpecContext, name string, b brokenWorld, check string) {
		expectRefused(ctx, name, b, check)
	},
		Entry("no endpoints, and no engine either", "endpoints/none/500", brokenWorld{sabotage: detach("mesh_connect4")},
			"the first packet went as declared"),
		Entry("no endpoints, no engine, and a packet filter in the pod that refuses",
			"endpoints/none/500", brokenWorld{sabotage: refuseInPod}, "the first packet went as declared"),
		Entry("undeclared port, and no engine", "ports/undeclared/500", brokenWorld{sabotage: detach("mesh_connect4")},
			"packets of client to"),
		Entry("weights that do not change", "clusterip/weight-change/90-10-to-10-90", brokenWorld{deaf: true},
			"after the change: share of v1"),
		Entry("an endpoint that stays", "endpoints/removed/under-load", brokenWorld{deaf: true},
			"after the change: the application saw what is declared"),
		Entry("an enrolment that does not happen", "managed/enrol-and-leave/12000", brokenWorld{deaf: true},
			"after the change: the application saw what is declared"),
		Entry("a pod that is never sent to itself", "hairpin/50-50", brokenWorld{sabotage: sendTo("v2")}, "share of v1"),
		Entry("a pod that is not redirected to itself", "hairpin/50-50", brokenWorld{sabotage: detach("mesh_connect4")},
			"the application saw what is declared"),
		Entry("a pod's own address that is rewritten on the way", "pod-ip/direct/500", brokenWorld{
			sabotage: rules("a", func(c *netsim.Cluster) [][]string {
				return [][]string{{"nat", "PREROUTING", "-d", address(c, "v2"), "-j", "DNAT", "--to-destination", address(c, "v1")}}
			}),
		}, "the way is as declared"),
	)

	It("is refused where rewritten packets were declared to go straight", func(ctx SpecContext) {
		s, found := scenario.Find("baseline/dnat/90-10")
		Expect(found).To(BeTrue())
		s.Phases[0].Loads[0].Want.Via = scenario.ViaNone
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openNetsim}, 1)
		if r.Verdict == report.NotRun {
			Skip("NOT RUN: " + r.Reason)
		}
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("the way is as declared"))
	}, SpecTimeout(time.Minute))

	It("is refused where there is no mesh at all", func(ctx SpecContext) {
		s, found := scenario.Find("clusterip/weight/90-10")
		Expect(found).To(BeTrue())
		s.Topology.Mesh = scenario.NoMesh
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openNetsim}, 1)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
	}, SpecTimeout(time.Minute))

	It("is refused where packets are rewritten and a socket redirect was declared", func(ctx SpecContext) {
		s, found := scenario.Find("clusterip/weight/90-10")
		Expect(found).To(BeTrue())
		s.Topology.Mesh = scenario.DNAT
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openNetsim}, 1)
		if r.Verdict == report.NotRun {
			Skip("NOT RUN: " + r.Reason)
		}
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("the socket's peer is as declared"))
	}, SpecTimeout(time.Minute))
})

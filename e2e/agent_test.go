package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// agentExe and waypointExe are the programs of this build, envoyExe the Envoy of this
// machine; "" where there is none.
var agentExe, waypointExe, envoyExe string

var _ = BeforeSuite(func(ctx SpecContext) {
	dir := must(os.MkdirTemp("", "duomesh-agent"))
	DeferCleanup(os.RemoveAll, dir)
	agentExe, waypointExe, envoyExe = filepath.Join(dir, "duomesh-agent"), filepath.Join(dir, "duomesh-waypoint"), findEnvoy()
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator),
		"github.com/duomesh/duomesh/cmd/duomesh-agent", "github.com/duomesh/duomesh/cmd/duomesh-waypoint")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
}, NodeTimeout(5*time.Minute))

// saboteur is a cluster in which somebody does something from outside when one
// kind of action has been done.
type saboteur struct {
	*netsim.Cluster
	after    func(scenario.Action) bool
	sabotage func(ctx context.Context, c *netsim.Cluster) error
}

// Do implements scenario.World.
func (s *saboteur) Do(ctx context.Context, a scenario.Action) error {
	if err := s.Cluster.Do(ctx, a); err != nil || !s.after(a) {
		return err
	}
	return s.sabotage(ctx, s.Cluster)
}

func afterKill(a scenario.Action) bool {
	_, is := a.(scenario.KillAgent)
	return is
}

func afterApply(a scenario.Action) bool {
	_, is := a.(scenario.Apply)
	return is
}

// meddler is a cluster in which somebody makes slots lead to v1, again and again,
// while objects are churned.
type meddler struct{ *netsim.Cluster }

// Do implements scenario.World.
func (m *meddler) Do(ctx context.Context, a scenario.Action) error {
	if _, is := a.(scenario.Churn); !is {
		return m.Cluster.Do(ctx, a)
	}
	ctx, cancel := context.WithCancel(ctx)
	meddling := make(chan error, 1)
	go func() {
		err := sendFirst(m.Cluster, "v1")
		for err == nil && ctx.Err() == nil {
			err = sendFirst(m.Cluster, "v1")
		}
		meddling <- err
	}()
	err := m.Cluster.Do(ctx, a)
	cancel()
	return errors.Join(err, <-meddling)
}

var _ = Describe("an agent that is killed", Label("netsim"), func() {
	// The controls of the scenarios agent/killed and agent/churn-and-kills, which
	// are among all scenarios.
	DescribeTable("fails its scenario when", func(
		ctx SpecContext, name string, after func(scenario.Action) bool,
		sabotage func(context.Context, *netsim.Cluster) error, check string,
	) {
		s, found := scenario.Find(name)
		Expect(found).To(BeTrue())
		load := &s.Phases[0].Loads[0]
		load.Connections = min(load.Connections, 20_000) // enough to be seen
		open := func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
			c, err := netsim.Open(ctx, netsim.Config{Agent: agentExe}, t)
			if err != nil {
				return nil, err
			}
			return &saboteur{c, after, sabotage}, nil
		}
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: open}, 1)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring(check))
	},
		Entry("its engine ends with it", "agent/killed/under-load", afterKill,
			detach("mesh_connect4"), "the application saw what is declared", SpecTimeout(time.Minute)),
		Entry("its pods leave with it", "agent/killed/under-load", afterKill,
			func(_ context.Context, c *netsim.Cluster) error {
				return eachEntry(c, "pods", func(m *ebpf.Map, key, cookie []byte) error {
					return m.Put(key, make([]byte, len(cookie)))
				})
			}, "SYNs, want 0", SpecTimeout(time.Minute)),
		Entry("slots lead elsewhere after the churn", "agent/churn-and-kills/100000", afterApply,
			sendTo("v5"), "the application saw what is declared", SpecTimeout(3*time.Minute)),
		Entry("slots lead datagrams elsewhere after the churn", "udp/churn-and-kills/100000", afterApply,
			sendTo("v5"), "the application saw what is declared", SpecTimeout(3*time.Minute)),
	)

	// All six pods are right at some moment of a churn, v1 at two of six. Connections are
	// made all the while: in the first moments the agents are late, and v1 is still right.
	DescribeTable("fails its scenario when slots lead to an endpoint of another moment, while objects change", func(
		ctx SpecContext, name string,
	) {
		s, found := scenario.Find(name)
		Expect(found).To(BeTrue())
		load := &s.Phases[0].Loads[0]
		load.Connections, load.PerSecond = 20_000, 4000
		open := func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
			c, err := netsim.Open(ctx, netsim.Config{Agent: agentExe}, t)
			if err != nil {
				return nil, err
			}
			return &meddler{c}, nil
		}
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: open}, 1)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("served by what was declared at that moment"))
	},
		Entry("for connections", "agent/churn-and-kills/100000", SpecTimeout(3*time.Minute)),
		Entry("for datagrams", "udp/churn-and-kills/100000", SpecTimeout(3*time.Minute)),
	)
})

var _ = Describe("a node agent", Label("netsim"), func() {
	var c *netsim.Cluster
	BeforeEach(func(ctx SpecContext) {
		c = agentCluster(ctx)
	}, NodeTimeout(time.Minute))

	It("changes as often as it can, and dies as often as it is killed", func(ctx SpecContext) {
		before := statusOf(ctx, c)
		only := oneService(1)
		Expect(c.Do(ctx, scenario.Churn{
			Between: []scenario.Objects{oneService(2), only}, Changes: 40, PerSecond: 15,
			Kill: []string{"a"}, KillEvery: 25,
		})).To(Succeed())
		after := statusOf(ctx, c)
		Expect(after.PID).NotTo(Equal(before.PID), "the agent was not killed")
		Expect(after.Applied.Generation).To(BeNumerically(">", 3), "changes did not arrive while they were made")
		Expect(names(after.Pods)).To(Equal([]string{"default/client"}), "the next agent does not know the pod")
	}, SpecTimeout(time.Minute))

	DescribeTable("refuses state that it cannot take over, and leaves it working", func(
		ctx SpecContext, spoil func(pins string), want string,
	) {
		Expect(c.Do(ctx, scenario.KillAgent{Node: "a"})).To(Succeed())
		pins := must(pinsOf(c))
		spoil(pins)
		err := c.Do(ctx, scenario.StartAgent{Node: "a"})
		if want == "" {
			Expect(err).NotTo(HaveOccurred())
			Expect(c.Apply(ctx, oneService(1))).To(Succeed())
		} else {
			Expect(err).To(MatchError(ContainSubstring(want)))
			Expect(err).To(MatchError(ContainSubstring("exit status 1")))
		}
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty(), "the dataplane has not outlived its agent")
	},
		Entry("nothing is wrong: the control", func(string) {}, "", SpecTimeout(time.Minute)),
		Entry("a map's pin is missing", func(pins string) {
			Expect(os.Remove(filepath.Join(pins, "slots"))).To(Succeed())
		}, "map slots is not", SpecTimeout(time.Minute)),
		Entry("a map's pin is of something else", func(pins string) {
			Expect(os.Remove(filepath.Join(pins, "frontends"))).To(Succeed())
			foreign := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}))
			defer foreign.Close()
			Expect(foreign.Pin(filepath.Join(pins, "frontends"))).To(Succeed())
		}, "frontends", SpecTimeout(time.Minute)),
		Entry("another ABI", func(pins string) {
			Expect(os.Mkdir(filepath.Join(filepath.Dir(pins), "abi-999"), 0o700)).To(Succeed())
		}, "abi-999: it is not of", SpecTimeout(time.Minute)),
	)

	It("is the only one of its node", func(ctx SpecContext) {
		second := onNode(ctx, c, must(c.AgentArgs("a"))...)
		Expect(second.code).To(Equal(1))
		Expect(second.stderr).To(ContainSubstring("another engine uses it"))
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
		Expect(c.Apply(ctx, oneService(1))).To(Succeed(), "the first does not work any more")
	}, SpecTimeout(time.Minute))

	It("ends by SIGTERM without ending the dataplane; --remove ends that", func(ctx SpecContext) {
		node := must(c.Node("a"))
		run := filepath.Dir(node.BPFFS)
		remove := []string{agentExe, "--remove", "--bpffs", node.BPFFS, "--enrol-socket", filepath.Join(run, "enrol.sock")}
		busy := onNode(ctx, c, remove...)
		Expect(busy.code).To(Equal(1), "taken away under a living agent")
		Expect(busy.stderr).To(ContainSubstring("end it first"))

		Expect(syscall.Kill(statusOf(ctx, c).PID, syscall.SIGTERM)).To(Succeed())
		Eventually(ctx, func() error { return c.Apply(ctx, oneService(1)) }).
			Should(MatchError(ContainSubstring("its agent does not run")))
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
		Expect(filepath.Join(run, "enrol.sock")).NotTo(BeAnExistingFile())

		gone := onNode(ctx, c, remove...)
		Expect(gone.code).To(Equal(0), gone.stderr)
		Expect(reach(ctx, c, "client", vipOf(c))).To(Equal("ECONNREFUSED"), "it still redirects")
		Expect(filepath.Join(node.BPFFS, "duomesh")).NotTo(BeADirectory())
		Expect(c.Do(ctx, scenario.StartAgent{Node: "a"})).To(Succeed())
		Expect(c.Do(ctx, scenario.Enrol{Pod: "client"})).To(Succeed())
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
	}, SpecTimeout(time.Minute))

	It("sees that a pod has ended, and does not take the next one for it", func(ctx SpecContext) {
		before := statusOf(ctx, c)
		Expect(names(before.Pods)).To(Equal([]string{"default/client"}))
		Expect(holds(before.PID, before.Pods[0].Netns)).To(BeTrue(), "the check for held namespaces sees nothing")
		Expect(c.Do(ctx, scenario.Recycle{Pod: "client"})).To(Succeed())
		Expect(reach(ctx, c, "client", vipOf(c))).To(Equal("ECONNREFUSED"), "the new pod is in the mesh")
		Eventually(ctx, func() []string { return names(statusOf(ctx, c).Pods) }).Should(BeEmpty())
		Expect(statusOf(ctx, c).Unknown).To(BeZero(), "the entry stayed in the kernel")
		Expect(holds(before.PID, before.Pods[0].Netns)).To(BeFalse(), "the agent keeps the namespace of the ended pod alive")
		Expect(c.Do(ctx, scenario.Enrol{Pod: "client"})).To(Succeed())
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
	}, SpecTimeout(time.Minute))

	It("goes on with what works when the source has something bad", func(ctx SpecContext) {
		path := strings.TrimPrefix(statusOf(ctx, c).Source.Name, "file:")
		good := must(os.ReadFile(path))
		Expect(os.WriteFile(path, []byte("version: 1\nservices: [{title: x}]\n"), 0o600)).To(Succeed())
		Eventually(ctx, func() string { return statusOf(ctx, c).Source.Error }).Should(ContainSubstring(path + ":2:"))
		Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
		Expect(os.WriteFile(path, good, 0o600)).To(Succeed())
		Eventually(ctx, func() string { return statusOf(ctx, c).Source.Error }).Should(BeEmpty())
	}, SpecTimeout(time.Minute))
})

// agentCluster is one node with an agent, an enrolled client and two servers.
func agentCluster(ctx SpecContext) *netsim.Cluster {
	GinkgoHelper()
	c := must(netsim.Open(ctx, netsim.Config{Agent: agentExe}, scenario.Topology{
		Mesh: scenario.Duomesh, Agents: true,
		Nodes: []scenario.Node{{Name: "a", Pods: []scenario.Pod{
			{Name: "client", Managed: true},
			{Name: "v1", Serve: []uint16{8080}},
			{Name: "v2", Serve: []uint16{8080}},
		}}},
	}))
	DeferCleanup(c.Close)
	Expect(c.Apply(ctx, oneService(2))).To(Succeed())
	Expect(reach(ctx, c, "client", vipOf(c))).To(BeEmpty())
	return c
}

// oneService has the first n servers of agentCluster behind it.
func oneService(n int) scenario.Objects {
	s := scenario.Service{Name: "fortio", Family: scenario.IPv4, Ports: []scenario.Port{{Port: 80, Target: 8080}}}
	for i := range n {
		s.Endpoints = append(s.Endpoints, scenario.Endpoint{Pod: fmt.Sprintf("v%d", i+1), Weight: 1})
	}
	return scenario.Objects{Services: []scenario.Service{s}}
}

func vipOf(c *netsim.Cluster) netip.AddrPort {
	GinkgoHelper()
	return must(c.Resolve(scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4}))
}

// statusOf asks the agent of node a, inside the node's namespace.
func statusOf(ctx context.Context, c *netsim.Cluster) api.Status {
	GinkgoHelper()
	client := api.NewClient(*c.State().Nodes[0].Admin)
	defer client.Close()
	return must(client.Status(ctx, ""))
}

func names(pods []api.Pod) []string {
	list := []string{}
	for _, p := range pods {
		list = append(list, p.Name)
	}
	return list
}

// onNode runs a program in the namespace and cgroup of node a's own processes.
func onNode(ctx context.Context, c *netsim.Cluster, argv ...string) ran {
	GinkgoHelper()
	node := must(c.Node("a"))
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(node.Own.Fd())}
	Expect(kernel.InNetns(node.Netns, cmd.Start)).To(Succeed())
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		Expect(err).NotTo(HaveOccurred())
	}
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// holds reports whether a process has a descriptor of a network namespace.
func holds(pid int, netns uint64) bool {
	GinkgoHelper()
	for _, fd := range must(filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))) {
		if to, err := os.Readlink(fd); err == nil && to == fmt.Sprintf("net:[%d]", netns) {
			return true
		}
	}
	return false
}

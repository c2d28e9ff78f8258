package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// serverOf is the process of a pod's traffic server: of a pod that only serves it is
// the only one.
func serverOf(c *netsim.Cluster, pod string) (int, error) {
	h, err := c.Pod(pod)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(filepath.Join(h.Cgroup.Name(), "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	pids := strings.Fields(string(data))
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d processes in pod %s, want its server's", len(pids), pod)
	}
	return strconv.Atoi(pids[0])
}

// signalServer sends a signal to v2's server.
func signalServer(s syscall.Signal) func(*netsim.Cluster) error {
	return func(c *netsim.Cluster) error {
		pid, err := serverOf(c, "v2")
		if err != nil {
			return err
		}
		return syscall.Kill(pid, s)
	}
}

// inPodOf appends a rule to v2's own packet filter.
func inPodOf(rule ...string) func(*netsim.Cluster) error {
	return func(c *netsim.Cluster) error {
		h, err := c.Pod("v2")
		if err != nil {
			return err
		}
		return filterIn(h.Netns, append([]string{"filter", "INPUT", "-p", "tcp", "--dport", "8080"}, rule...))
	}
}

// struckWorld is a cluster that something strikes once its clients have made connections.
type struckWorld struct {
	*netsim.Cluster
	strike func(*netsim.Cluster) error
	once   *sync.Once
	failed *error
	// patience is after how long its clients give up.
	patience time.Duration
}

const (
	// impatient is as long as one answer that does not come.
	impatient = 10 * time.Second
	// untilTold is longer than the time between two reports of progress.
	untilTold = 14 * time.Second
)

// Exec strikes after the first connection that a client tells of.
func (s struckWorld) Exec(ctx context.Context, pod string, l traffic.Load, seen func(traffic.Conn)) ([]traffic.Conn, error) {
	l.Patience = s.patience
	return s.Cluster.Exec(ctx, pod, l, func(c traffic.Conn) {
		s.once.Do(func() { *s.failed = s.strike(s.Cluster) })
		seen(c)
	})
}

// runStruck runs 90/10 in such a world and returns what progress was told.
func runStruck(ctx context.Context, patience time.Duration, strike func(*netsim.Cluster) error) (report.Result, []verify.Progress) {
	GinkgoHelper()
	s, found := scenario.Find("clusterip/weight/90-10")
	Expect(found).To(BeTrue())
	var told []verify.Progress
	var failed error
	open := func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
		c, err := netsim.Open(ctx, netsim.Config{}, t)
		if err != nil {
			return nil, err
		}
		return struckWorld{Cluster: c, strike: strike, once: new(sync.Once), failed: &failed, patience: patience}, nil
	}
	r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: open, Progress: func(p verify.Progress) { told = append(told, p) }}, 1)
	Expect(failed).NotTo(HaveOccurred())
	return r, told
}

func verdictOf(r report.Result, check string) report.Verdict {
	for _, c := range r.Checks {
		if strings.Contains(c.Name, check) {
			return c.Verdict
		}
	}
	return ""
}

var _ = Describe("what was seen of a load that went wrong", Label("netsim"), func() {
	const outcome, agree, told, reported = "the application saw what is declared", "client and server agree",
		"clients and servers told all that they saw", "every declared connection was reported"

	It("passes where nothing happens: the control", func(ctx SpecContext) {
		r, _ := runStruck(ctx, impatient, func(*netsim.Cluster) error { return nil })
		Expect(r.Verdict).To(Equal(report.Pass), explain(r))
	}, SpecTimeout(3*time.Minute))

	DescribeTable("is judged where a server is silent", func(ctx SpecContext, strike func(*netsim.Cluster) error) {
		r, _ := runStruck(ctx, impatient, strike)
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(r.Connections).To(BeNumerically(">", 0))
		Expect(verdictOf(r, outcome)).To(Equal(report.Fail), explain(r))
		Expect(verdictOf(r, agree)).To(Equal(report.Inconclusive), explain(r))
		Expect(verdictOf(r, told)).To(Equal(report.Inconclusive), explain(r))
		Expect(explain(r)).To(ContainSubstring("the server of v2"))
	},
		Entry("since it was killed", signalServer(syscall.SIGKILL), SpecTimeout(3*time.Minute)),
		Entry("since it was stopped", signalServer(syscall.SIGSTOP), SpecTimeout(5*time.Minute)),
	)

	It("is judged where a server's packets are refused now and then", func(ctx SpecContext) {
		r, _ := runStruck(ctx, impatient, inPodOf("-m", "statistic", "--mode", "random", "--probability", "0.2", "-j", "REJECT", "--reject-with", "tcp-reset"))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(r.Connections).To(Equal(6000))
		Expect(verdictOf(r, outcome)).To(Equal(report.Fail), explain(r))
		Expect(verdictOf(r, told)).To(Equal(report.Pass), explain(r))
	}, SpecTimeout(3*time.Minute))

	It("is judged where a way is dead: clients give up, and progress is told", func(ctx SpecContext) {
		r, progress := runStruck(ctx, untilTold, inPodOf("-j", "DROP"))
		Expect(r.Verdict).To(Equal(report.Fail), explain(r))
		Expect(verdictOf(r, outcome)).To(Equal(report.Fail), explain(r))
		Expect(verdictOf(r, reported)).To(Equal(report.Fail), explain(r))
		Expect(explain(r)).To(ContainSubstring("gave up"))
		Expect(slices.ContainsFunc(progress, func(p verify.Progress) bool {
			return p.Failed > 0 && p.Last == "connect: ETIMEDOUT" && p.Declared == 6000
		})).To(BeTrue(), "%+v", progress)
	}, SpecTimeout(5*time.Minute))

	It("is judged where the run is interrupted", func(ctx SpecContext) {
		interrupted, cancel := context.WithCancel(ctx)
		defer cancel()
		r, _ := runStruck(interrupted, impatient, func(*netsim.Cluster) error { cancel(); return nil })
		Expect(r.Verdict).To(Equal(report.Inconclusive), explain(r))
		Expect(r.Reason).To(ContainSubstring("interrupted"))
		Expect(r.Connections).To(BeNumerically(">", 0))
		Expect(verdictOf(r, outcome)).To(Equal(report.Pass), explain(r))
		Expect(verdictOf(r, told)).To(Equal(report.Inconclusive), explain(r))
	}, SpecTimeout(3*time.Minute))
})

package e2e

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/netsim"
)

// detachJudge takes from the judge, once, one hook of the client's link, as
// `bpftool link detach` does.
func detachJudge(hook ebpf.AttachType) func(*netsim.Cluster) error {
	var once sync.Once
	return func(c *netsim.Cluster) (err error) {
		once.Do(func() { err = detachJudgeOf(c, hook) })
		return err
	}
}

func detachJudgeOf(c *netsim.Cluster, hook ebpf.AttachType) error {
	pod, err := c.Pod("client")
	if err != nil {
		return err
	}
	end := pod.Links[0]
	return kernel.InNetns(end.Netns, func() error {
		there, err := link.QueryPrograms(link.QueryOptions{Target: end.Ifindex, Attach: hook})
		if err != nil {
			return err
		}
		if len(there.Programs) != 1 {
			return fmt.Errorf("%d programs at %s of the client's link, want the judge's", len(there.Programs), hook)
		}
		return detachLink(there.Programs[0])
	})
}

func detachLink(p link.AttachedProgram) error {
	id, known := p.LinkID()
	if !known {
		return fmt.Errorf("program %d is attached without a link", p.ID)
	}
	l, err := link.NewFromID(id)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Detach()
}

var _ = Describe("a judge that somebody blinds", Label("netsim"), func() {
	It("does not pass what it could not see", func(ctx SpecContext) {
		if err := kernel.TCX.Probe(); err != nil {
			Skip("NOT RUN: " + err.Error())
		}
		s, found := scenario.Find("clusterip/weight/90-10")
		Expect(found).To(BeTrue())
		world := brokenWorld{watched: detachJudge(ebpf.AttachTCXEgress)}
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openBroken(world)}, 1)
		Expect(r.Verdict).To(Equal(report.Inconclusive), explain(r))
		Expect(explain(r)).To(ContainSubstring("TCXEgress of interface"))
	})
})

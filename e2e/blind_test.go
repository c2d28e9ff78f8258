package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
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

// judgeMaps hands the maps of that name that this process has to change, as anybody who
// may call bpf(2) reaches them: here they are the judge's. It says how many there were.
func judgeMaps(name string, change func(*ebpf.Map) error) (int, error) {
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, path := range infos {
		id, is := mapID(path)
		if !is {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // closed meanwhile
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			n++
			err = change(m)
			if err != nil {
				return n, errors.Join(err, m.Close())
			}
		}
		if err := m.Close(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// mapID is the number of the map that a descriptor of this process is of.
func mapID(fdinfo string) (ebpf.MapID, bool) {
	data, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, false // closed meanwhile
	}
	for line := range strings.Lines(string(data)) {
		if value, is := strings.CutPrefix(line, "map_id:"); is {
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			return ebpf.MapID(id), err == nil
		}
	}
	return 0, false
}

// each hands every entry of a map to change.
func each(change func(m *ebpf.Map, key, value []byte) error) func(*ebpf.Map) error {
	return func(m *ebpf.Map) error {
		var keys, values [][]byte
		var key, value []byte
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			keys, values = append(keys, slices.Clone(key)), append(values, slices.Clone(value))
		}
		for i := range keys {
			if err := change(m, keys[i], values[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
		return entries.Err()
	}
}

func remove(m *ebpf.Map, key, _ []byte) error { return m.Delete(key) }

func zero(m *ebpf.Map, key, value []byte) error { return m.Put(key, make([]byte, len(value))) }

func onePacketMore(m *ebpf.Map, key, value []byte) error {
	putNativeU64(value, nativeU64(value)+1)
	return m.Put(key, value)
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

	DescribeTable("does not believe what somebody wrote into its maps", func(ctx SpecContext, name string, change func(*ebpf.Map) error, said string) {
		s, found := scenario.Find("clusterip/weight/90-10")
		Expect(found).To(BeTrue())
		changed := 0
		world := brokenWorld{client: func(conns []traffic.Conn) []traffic.Conn {
			n, err := judgeMaps(name, change)
			Expect(err).NotTo(HaveOccurred())
			changed += n
			return conns
		}}
		s.Phases[0].Loads[0].From = s.Phases[0].Loads[0].From[:1] // one writer at a time
		r := verify.Run(ctx, s, verify.Options{World: "netsim", Open: openBroken(world)}, 1)
		Expect(changed).To(Equal(1), "the judge's map %s was not reached", name)
		if said == "" {
			Expect(r.Verdict).To(Equal(report.Pass), explain(r))
			return
		}
		Expect(r.Verdict).To(Equal(report.Inconclusive), explain(r))
		Expect(explain(r)).To(And(ContainSubstring("the judge missed nothing"), ContainSubstring(said)))
	},
		Entry("nothing: the control", "wire", func(*ebpf.Map) error { return nil }, ""),
		Entry("counters of packets deleted", "wire", each(remove), "the counters of packets out at the pod's end"),
		Entry("counters of packets set to zero", "wire", each(zero), "the counters of packets out at the pod's end"),
		Entry("packets that did not pass", "wire", each(onePacketMore), "the counters of packets"),
		Entry("links that are counted no longer", "links", each(remove), "in map links"),
		Entry("pods that are watched no longer", "watched", each(remove), "in map watched"),
	)
})

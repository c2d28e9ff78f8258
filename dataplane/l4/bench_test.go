package l4

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BenchmarkHook measures the connect4 program by the kernel's own statistics,
// against an empty program, in rounds that alternate between a pod with the one
// and a pod with the other. Per variant: median ns/run of both over the rounds,
// and the median of the rounds' ratios.
func BenchmarkHook(b *testing.B) {
	for _, v := range []struct {
		name    string
		options Options
		managed bool
		to      string
		target  float64 // times an empty program; 0: none
	}{
		{"unmanaged", Options{HidePeer: true}, false, "10.1.0.1:7001", 1.6},
		{"unknown-address", Options{HidePeer: true}, true, "10.1.0.1:7001", 0},
		{"unknown-address-keep-peer", Options{}, true, "10.1.0.1:7001", 0},
		{"l4", Options{HidePeer: true}, true, "10.9.0.1:80", 2.8},
		{"l4-keep-peer", Options{}, true, "10.9.0.1:80", 10},
	} {
		for _, pattern := range []string{"repeat", "exchange"} {
			b.Run(v.name+"/"+pattern, func(b *testing.B) {
				stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
				must(b, err)
				defer stats.Close()
				base, n := newNode(b), newNode(b)
				floor, p := base.pod(b, "default/floor"), n.pod(b, "default/client")
				empty := emptyConnect4(b, base.cgroup)
				e := n.open(b, v.options)
				apply(b, e, decisions()...)
				if v.managed {
					must(b, e.Enrol(p.Pod))
				}
				ours := e.coll.Programs[meshProgMeshConnect4]
				var floors, costs, ratios []float64
				for b.Loop() {
					f := perRun(b, empty, func() { floor.connects(b, pattern, 200, "10.1.0.1:7001") })
					c := perRun(b, ours, func() { p.connects(b, pattern, 200, v.to) })
					floors, costs, ratios = append(floors, f), append(costs, c), append(ratios, c/f)
				}
				b.ReportMetric(median(floors), "empty-ns/run")
				b.ReportMetric(median(costs), "ns/run")
				b.ReportMetric(median(ratios), "x-empty")
				if v.target > 0 {
					b.ReportMetric(v.target, "x-empty-target")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkGetpeername is the cost of giving the asked address back.
func BenchmarkGetpeername(b *testing.B) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	must(b, err)
	defer stats.Close()
	n := newNode(b)
	p := n.pod(b, "default/client")
	e := n.open(b, Options{})
	apply(b, e, decisions()...)
	must(b, e.Enrol(p.Pod))
	var costs []float64
	for b.Loop() {
		costs = append(costs, perRun(b, e.coll.Programs[meshProgMeshGetpeername4], func() {
			p.connects(b, "repeat", 200, "10.9.0.1:80")
		}))
	}
	b.ReportMetric(median(costs), "ns/run")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkConnect is what the engine adds to a connection as a whole: CPU time
// of connect() to a listener on loopback, getpeername and a reset, both ends, by
// the pod's cgroup. Rounds of 1000 alternate between a pod without any program
// and one that goes through the engine.
func BenchmarkConnect(b *testing.B) {
	const each = 1000
	base, n := newNode(b), newNode(b)
	floor, p := base.pod(b, "default/floor"), n.pod(b, "default/client")
	e := n.open(b, Options{})
	apply(b, e, decisions()...)
	must(b, e.Enrol(p.Pod))
	var floors, costs, added []float64
	for b.Loop() {
		f := cpuOf(b, floor.Cgroup, func() { floor.connects(b, "repeat", each, "10.1.0.1:7001") })
		c := cpuOf(b, p.Cgroup, func() { p.connects(b, "repeat", each, "10.9.0.1:80") })
		floors, costs, added = append(floors, f/each), append(costs, c/each), append(added, (c-f)/each)
	}
	b.ReportMetric(median(floors), "direct-us/conn")
	b.ReportMetric(median(costs), "l4-us/conn")
	b.ReportMetric(median(added), "added-us/conn")
	b.ReportMetric(0, "ns/op")
}

// cpuOf returns the microseconds that the processes of a cgroup took for f.
func cpuOf(tb testing.TB, cgroup *os.File, f func()) float64 {
	tb.Helper()
	usage := func() (us float64) {
		stat, err := os.ReadFile(cgroup.Name() + "/cpu.stat")
		must(tb, err)
		_, err = fmt.Sscanf(string(stat), "usage_usec %f", &us)
		must(tb, err)
		return us
	}
	before := usage()
	f()
	return usage() - before
}

// connects makes n connections, back to back ("repeat"), or each with an answer
// of the server in between ("exchange"), which cools the caches.
func (p *pod) connects(tb testing.TB, pattern string, n int, to string) {
	tb.Helper()
	if a := p.do(tb, call{Op: pattern, N: n, Domain: v4, Type: unix.SOCK_STREAM, To: addrPort(to)}); a.Errno != 0 {
		tb.Fatalf("connect to %s: %v", to, a.Errno)
	}
}

func emptyConnect4(tb testing.TB, cgroup *os.File) *ebpf.Program {
	tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(tb, err)
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(cgroup.Fd()), Program: prog, Attach: ebpf.AttachCGroupInet4Connect,
	})
	must(tb, err)
	tb.Cleanup(func() { l.Close(); prog.Close() })
	return prog
}

func perRun(tb testing.TB, prog *ebpf.Program, f func()) float64 {
	tb.Helper()
	before, err := prog.Stats()
	must(tb, err)
	f()
	after, err := prog.Stats()
	must(tb, err)
	if after.RunCount == before.RunCount {
		tb.Fatal("the program did not run")
	}
	return float64((after.Runtime - before.Runtime).Nanoseconds()) / float64(after.RunCount-before.RunCount)
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

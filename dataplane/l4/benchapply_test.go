package l4

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// endpointsEach is the number of endpoints of each service of a large mesh:
// 10 000 services have 100 000 endpoints.
const endpointsEach = 10

// large is a Snapshot of n services, each with endpoints of its own.
func large(n int) intent.Snapshot {
	var s intent.Snapshot
	for i := range n {
		svc := largeService(i, endpointsEach)
		s.Services = append(s.Services, svc)
		for _, e := range svc.Endpoints {
			s.Workloads = append(s.Workloads, e.Workload)
		}
	}
	return s
}

// largeService is service i of a large mesh with its first endpoints only.
func largeService(i, endpoints int) *intent.Service {
	var ws []*intent.Workload
	for j := range endpoints {
		ws = append(ws, workload(fmt.Sprintf("w-%d-%d", i, j), fmt.Sprintf("10.%d.%d.%d", 100+j, i/256, i%256)))
	}
	return service10(i, ws)
}

func service10(i int, ws []*intent.Workload) *intent.Service {
	return service(fmt.Sprintf("s%05d", i), []string{vipOf(i).String()}, []uint16{80}, ws...)
}

// vipOf is the address of service i of a large mesh.
func vipOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i / 256), byte(i)}) }

// oneChanged is a Snapshot in which the last endpoint of service i has another
// weight: a workload and its service are new, all else is shared.
func oneChanged(s intent.Snapshot, i int, weight uint32) intent.Snapshot {
	next := intent.Snapshot{Services: slices.Clone(s.Services), Workloads: slices.Clone(s.Workloads)}
	w := *s.Services[i].Endpoints[endpointsEach-1].Workload
	w.Weight = weight
	svc := *s.Services[i]
	svc.Endpoints = slices.Clone(svc.Endpoints)
	svc.Endpoints[endpointsEach-1].Workload = &w
	next.Services[i] = &svc
	next.Workloads[i*endpointsEach+endpointsEach-1] = &w
	return next
}

var meshSizes = []int{10, 1000, 10_000}

// BenchmarkApply is the first load of a mesh, and the change of one endpoint in
// it. For a change two times are given: until programs that begin find it
// (visible), and until Apply returns, which is a grace period later.
func BenchmarkApply(b *testing.B) {
	for _, services := range meshSizes {
		s := large(services)
		b.Run(fmt.Sprintf("first/%d", services), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				n := newNode(b)
				e := mustOpen(b, n.host(), Options{})
				b.StartTimer()
				must(b, e.Apply(context.Background(), s))
				b.StopTimer()
				must(b, e.Close())
				b.StartTimer()
			}
			b.ReportMetric(2000, "target-ms")
		})
		b.Run(fmt.Sprintf("one-endpoint/%d", services), func(b *testing.B) {
			n := newNode(b)
			e := n.open(b, Options{})
			must(b, e.Apply(context.Background(), s))
			var visible []float64
			weight := uint32(1)
			for b.Loop() {
				weight++
				b.StopTimer()
				next := oneChanged(s, services/2, weight)
				b.StartTimer()
				visible = append(visible, float64(applyInSteps(b, e, next))/1e6)
			}
			b.ReportMetric(median(visible), "visible-ms")
			b.ReportMetric(10, "visible-target-ms")
		})
	}
}

// applyInSteps is Apply, and returns how long it took until the kernel had the
// change.
func applyInSteps(tb testing.TB, e *Engine, s intent.Snapshot) time.Duration {
	tb.Helper()
	begin := time.Now()
	p, err := e.prepare(context.Background(), s)
	must(tb, err)
	must(tb, e.show(p))
	visible := time.Since(begin)
	must(tb, e.settle(p))
	e.state.adopt(p)
	return visible
}

// BenchmarkGrace is the part of an Apply that waits for running programs.
func BenchmarkGrace(b *testing.B) {
	n := newNode(b)
	e := n.open(b, Options{})
	for b.Loop() {
		must(b, e.grace.wait())
	}
}

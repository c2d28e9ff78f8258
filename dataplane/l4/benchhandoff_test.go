package l4

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// BenchmarkPrograms is what all programs on both ends take for one connection that
// says one line, by the kernel's own statistics: straight to an endpoint, the same
// on nodes that have a waypoint, and to a waypoint, which asks for the original
// destination at both levels. Rounds of 200 alternate.
func BenchmarkPrograms(b *testing.B) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	must(b, err)
	defer stats.Close()
	w, bare := newWired(b), newWired(b)
	plainOn := func(w *wired) (*wiredPod, intent.Snapshot) {
		plain := w.pod(b, w.servers, "default/plain")
		must(b, w.server.Enrol(plain.Pod))
		plain.serve(b, listenHow{Port: 7001, Plain: true})
		services := []*intent.Service{service("plain", []string{"10.9.200.1", "fd00:9::200:1"}, []uint16{80},
			workload("plain", plain.v4.String(), plain.v6.String()))}
		return w.enrolled(b, "default/client"), intent.Snapshot{Services: services}
	}
	alone, s := plainOn(bare)
	bare.apply(b, s)
	client, s := plainOn(w)
	way := w.waypoint(b, "default/waypoint", listenHow{})
	services, asked4, asked6 := vips(many, waypointOf(way))
	s.Services = append(s.Services, services...)
	w.apply(b, s)
	const each = 200
	one := func(w *wired, from *wiredPod, q asking) float64 {
		q.N, q.PlainToo = each, true
		before := w.runtime(b)
		from.wantRight(b, q)
		return (w.runtime(b) - before) / each
	}
	straight := asking{To: asks("10.9.200.1:80")}
	var l4, beside, four, six []float64
	for b.Loop() {
		l4 = append(l4, one(bare, alone, straight))
		beside = append(beside, one(w, client, straight))
		four = append(four, one(w, client, asking{To: asked4}))
		six = append(six, one(w, client, asking{To: asked6}))
	}
	b.ReportMetric(median(l4), "l4-us/conn")
	b.ReportMetric(median(beside), "l4-beside-waypoints-us/conn")
	b.ReportMetric(median(four), "handoff-v4-us/conn")
	b.ReportMetric(median(six), "handoff-v6-us/conn")
	b.ReportMetric(0, "ns/op")
}

// runtime is what all programs of both engines have taken, in microseconds.
func (w *wired) runtime(tb testing.TB) (us float64) {
	tb.Helper()
	for _, e := range []*Engine{w.client, w.server} {
		for _, p := range e.coll.Programs {
			s, err := p.Stats()
			must(tb, err)
			us += float64(s.Runtime.Nanoseconds()) / 1e3
		}
	}
	return us
}

package xds

import (
	"fmt"
	"testing"

	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// endpointsEach is the number of pods behind each service of a large mesh.
const endpointsEach = 10

func largePod(i, j int, ip string) istiod.Resource {
	uid := fmt.Sprintf("Kubernetes//Pod/demo/s%05d-%d", i, j)
	w := pod(uid, ip, keyOf(fmt.Sprintf("s%05d", i)))
	w.Name, w.Node, w.ClusterId, w.ServiceAccount = uid[len("Kubernetes//Pod/demo/"):], fmt.Sprint("node-", i%100), "Kubernetes", "default"
	w.Locality = &workloadapi.Locality{Region: "r1", Zone: "z1"}
	r := adstest.Resource(uid, ofWorkload(w))
	return istiod.Resource{Name: uid, Version: r.Version, Body: r.Resource}
}

// large is the first answer of istiod for n services with ten pods each.
func large(n int) istiod.Response {
	r := istiod.Response{TypeURL: addressType}
	for i := range n {
		s := svc(fmt.Sprintf("s%05d", i), fmt.Sprintf("10.90.%d.%d", i/256, i%256))
		r.Resources = append(r.Resources, istiod.Resource{Name: s.Name, Version: s.Version, Body: s.Resource})
		for j := range endpointsEach {
			r.Resources = append(r.Resources, largePod(i, j, fmt.Sprintf("10.%d.%d.%d", 100+j, i/256, i%256)))
		}
	}
	return r
}

// BenchmarkTake is what an answer costs until its Snapshot can be sent.
func BenchmarkTake(b *testing.B) {
	for _, services := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("first/services=%d", services), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				r, m := large(services), newMesh(Config{})
				b.StartTimer()
				if refused := m.take(r); len(refused) > 0 {
					b.Fatal(refused)
				}
				m.snapshot()
			}
		})
		b.Run(fmt.Sprintf("one-endpoint/services=%d", services), func(b *testing.B) {
			b.ReportAllocs()
			m := newMesh(Config{})
			m.take(large(services))
			n := 0
			for b.Loop() {
				b.StopTimer()
				n++
				r := istiod.Response{TypeURL: addressType, Resources: []istiod.Resource{largePod(n%services, 0, fmt.Sprintf("10.200.%d.%d", n/256%256, n%256))}}
				b.StartTimer()
				m.take(r)
				m.snapshot()
				m.unused()
			}
		})
	}
}

package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// endpointsEach is the number of pods behind each service of a large mesh.
const endpointsEach = 10

// largeMesh is what istiod sends of n services with ten pods each.
func largeMesh(n int) []*discovery.Resource {
	var all []*discovery.Resource
	for i := range n {
		name := fmt.Sprintf("s%05d", i)
		all = append(all, serviceResource(name, [4]byte{10, 90, byte(i / 256), byte(i % 256)}))
		for j := range endpointsEach {
			all = append(all, largePod(i, j))
		}
	}
	return all
}

func largePod(i, j int) *discovery.Resource {
	return podResource(fmt.Sprintf("s%05d-%d", i, j), fmt.Sprintf("s%05d", i), [4]byte{10, byte(100 + j), byte(i / 256), byte(i % 256)})
}

var meshSizes = []int{1000, 10_000}

// BenchmarkFirstSync starts an agent that has never run before, in a process of its
// own, and ends when all that a control plane sends is in the kernel.
func BenchmarkFirstSync(b *testing.B) {
	for _, services := range meshSizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			all := largeMesh(services)
			var rss, peak, maps, cpu float64
			for b.Loop() {
				b.StopTimer()
				n := newGround(b)
				s, flags := scripted(b)
				c := n.start(flags...)
				c.seen(2) // an empty mesh: connected, and both types answered
				before := c.cpu()
				b.StartTimer()
				s.Change(addressType, all)
				status := c.seen(3)
				b.StopTimer()
				if status.Applied.Services != services || status.Applied.Workloads != services*endpointsEach {
					b.Fatalf("applied: %+v, %s", status.Applied, status.Source.Error)
				}
				cpu += float64((c.cpu() - before).Milliseconds())
				c.eventually("an audit of it", func() bool { x := c.status(); return x.Audit != nil && x.Audit.At.After(x.Applied.At) })
				if a := c.status().Audit; a.Differences != 0 || a.Error != "" {
					b.Fatalf("audit: %+v", a)
				}
				rss, peak, maps = c.settledMemory(), c.memory("VmHWM"), c.mapBytes()
				c.kill()
				must(b, s.Close())
				b.StartTimer()
			}
			b.ReportMetric(cpu/float64(b.N), "agent-cpu-ms/op")
			b.ReportMetric(rss/1e6, "rss-MB")
			b.ReportMetric(peak/1e6, "peak-rss-MB")
			b.ReportMetric(maps/1e6, "maps-MB")
		})
	}
}

// BenchmarkStart is the same from the start of the process on.
func BenchmarkStart(b *testing.B) {
	for _, services := range meshSizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			all := largeMesh(services)
			for b.Loop() {
				b.StopTimer()
				n := newGround(b)
				s, flags := scripted(b, all...)
				b.StartTimer()
				c := n.start(flags...)
				c.seen(2)
				b.StopTimer()
				c.kill()
				must(b, s.Close())
				b.StartTimer()
			}
		})
	}
}

// BenchmarkOneEndpoint changes one pod of a large mesh. The time is from the moment
// at which the control plane sends it: "shown" until connections that begin are decided by
// it, "settled" until the agent says that none is being decided any more that began before.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, services := range meshSizes {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			n := newGround(b)
			s, flags := scripted(b, largeMesh(services)...)
			c := n.start(flags...)
			c.seen(2)
			var all, shown []time.Duration
			version := 2
			before, sum, count := c.cpu(), c.metric(delay+"_sum"), c.metric(delay+"_count")
			for b.Loop() {
				version++
				i := version % services
				pod := podResource(fmt.Sprintf("s%05d-0", i), fmt.Sprintf("s%05d", i), [4]byte{10, 200, byte(version / 256), byte(version % 256)})
				begun := time.Now()
				s.Change(addressType, []*discovery.Resource{pod})
				got := c.seen(version)
				if got.Source.Error != "" {
					b.Fatal(got.Source.Error)
				}
				all = append(all, time.Since(begun))
				shown = append(shown, got.Applied.Shown.Sub(begun))
			}
			b.ReportMetric(float64((c.cpu()-before).Milliseconds())/float64(len(all)), "agent-cpu-ms/op")
			b.ReportMetric((c.metric(delay+"_sum")-sum)/(c.metric(delay+"_count")-count)*1e3, "receipt-to-kernel-ms")
			reportQuantiles(b, "shown", shown)
			reportQuantiles(b, "settled", all)
			b.ReportMetric(c.memory("VmRSS")/1e6, "rss-MB")
			b.ReportMetric(c.memory("VmHWM")/1e6, "peak-rss-MB")
			c.kill()
		})
	}
}

// reportQuantiles reports the median and the 99th percentile of times.
func reportQuantiles(b *testing.B, name string, all []time.Duration) {
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2])/1e6, name+"-p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100])/1e6, name+"-p99-ms")
}

const delay = "duomesh_source_to_kernel_seconds"

func (c *child) mapBytes() float64 {
	c.Helper()
	m, err := c.admin.Maps(context.Background())
	must(c, err)
	sum := 0.0
	for _, one := range m.Maps {
		sum += float64(one.Bytes)
	}
	return sum
}

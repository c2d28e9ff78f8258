package l4

import (
	"context"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// BenchmarkHookScale is the connect4 program, by the kernel's own statistics, as
// the mesh grows: connections to random services, or to one service with many
// endpoints. Instructions and helper calls are those of the loaded program: it has
// no loop over services or endpoints.
func BenchmarkHookScale(b *testing.B) {
	type size struct{ services, endpoints int }
	for _, s := range []size{{10, 1}, {100, 1}, {1000, 1}, {10_000, 1}, {1, 1}, {1, 10}, {1, 100}, {1, 1000}, {1, 10_000}} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", s.services, s.endpoints), func(b *testing.B) {
			stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
			must(b, err)
			defer stats.Close()
			n := newNode(b)
			p := n.pod(b, "default/client")
			e := n.open(b, Options{HidePeer: true})
			apply(b, e, sized(s.services, s.endpoints)...)
			must(b, e.Enrol(p.Pod))
			ours := e.coll.Programs[meshProgMeshConnect4]
			var costs []float64
			for b.Loop() {
				costs = append(costs, perRun(b, ours, func() {
					p.mustDo(b, call{Op: "spread", Type: unix.SOCK_STREAM, N: 200, Of: s.services})
				}))
			}
			reportProgram(b, ours)
			b.ReportMetric(median(costs), "ns/run")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func reportProgram(b *testing.B, prog *ebpf.Program) {
	b.Helper()
	info, err := prog.Info()
	must(b, err)
	all, err := info.Instructions()
	must(b, err)
	b.ReportMetric(float64(len(all)), "instructions")
	b.ReportMetric(float64(helperCalls(b, prog)), "calls")
}

// sized are services that all have so many endpoints, at addresses of the pod.
func sized(services, endpoints int) []*intent.Service {
	var all []*intent.Service
	for i := range services {
		var ws []*intent.Workload
		for j := range endpoints {
			ws = append(ws, workload(fmt.Sprintf("w-%d-%d", i, j), fmt.Sprintf("10.%d.%d.%d", 100+j/65536, j/256%256, j%256)))
		}
		all = append(all, service10(i, ws))
	}
	return all
}

// BenchmarkDatagram is what the programs of an unconnected UDP socket take for one
// datagram and its reply, by the kernel's own statistics: for a flow that is known,
// for the first of each socket, for what is sent to no service, and in a pod that
// is not managed.
func BenchmarkDatagram(b *testing.B) {
	for _, c := range []struct {
		name    string
		to      string
		managed bool
		sockets int // per round
	}{
		{"known-flow", "10.9.0.1:80", true, 1},
		{"first-of-a-socket", "10.9.0.1:80", true, 200},
		{"no-service", "10.1.0.1:80", true, 1},
		{"unmanaged", "10.1.0.1:80", false, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
			must(b, err)
			defer stats.Close()
			n := newNode(b)
			p := n.pod(b, "default/client")
			e := n.open(b, Options{})
			apply(b, e, trio(1, 2, 3))
			if c.managed {
				must(b, e.Enrol(p.Pod))
			}
			send, receive := e.coll.Programs[meshProgMeshSendmsg4], e.coll.Programs[meshProgMeshRecvmsg4]
			var sends, receives []float64
			for b.Loop() {
				receives = append(receives, perRun(b, receive, func() {
					sends = append(sends, perRun(b, send, func() {
						for range c.sockets {
							fd := p.udp(b, v4)
							p.mustDo(b, call{Op: "asks", FD: fd, N: 200 / c.sockets, To: addrPort(c.to)})
							p.mustDo(b, call{Op: "close", FD: fd})
						}
					}))
				}))
			}
			b.ReportMetric(median(sends), "sendmsg-ns/run")
			b.ReportMetric(median(receives), "recvmsg-ns/run")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkMapMemory is the kernel memory of all maps, as the kernel reports it:
// of an engine without services, and of one with 10 000 services and 100 000
// endpoints.
func BenchmarkMapMemory(b *testing.B) {
	for _, services := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			n := newNode(b)
			e := n.open(b, Options{})
			must(b, e.Apply(context.Background(), large(services)))
			var bytes uint64
			for b.Loop() {
				usage, err := e.Usage()
				must(b, err)
				bytes = 0
				for _, u := range usage {
					bytes += u.Bytes
				}
			}
			b.ReportMetric(float64(bytes)/1e6, "MB")
			if services == 0 {
				b.ReportMetric(8, "target-MB")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

package l4

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/handoff"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// listenSink reads what comes and throws it away.
func listenSink(port int) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 256<<10))
			}()
		}
	}()
	return nil
}

// measuring is what a client is to do for a benchmark; the answer is nanoseconds.
type measuring struct {
	What string // "connect", "send", "bulk"
	To   netip.AddrPort
	N    int // connections, sends, or bytes
	Size int // of a send
}

func measure(q measuring) (int64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	switch q.What {
	case "connect":
		return measureConnects(q)
	case "send":
		return measureSends(q, threadTime)
	}
	q.N /= q.Size
	return measureSends(q, func() (int64, error) { return time.Now().UnixNano(), nil })
}

// threadTime is the processor time of this thread.
func threadTime() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return ts.Nano(), err
}

// measureConnects is the time in connect() and in the first send.
func measureConnects(q measuring) (total int64, err error) {
	for range q.N {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		begin := time.Now()
		err = unix.Connect(fd, sockaddr(unix.AF_INET, q.To))
		if err == nil {
			_, err = unix.Write(fd, []byte("x"))
		}
		total += time.Since(begin).Nanoseconds()
		unix.Close(fd)
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// measureSends is what sends after the first take.
func measureSends(q measuring, clock func() (int64, error)) (int64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, sockaddr(unix.AF_INET, q.To)); err != nil {
		return 0, err
	}
	b := make([]byte, q.Size)
	if err := write(fd, b); err != nil {
		return 0, err
	}
	begin, err := clock()
	if err != nil {
		return 0, err
	}
	for range q.N {
		if err := write(fd, b); err != nil {
			return 0, err
		}
	}
	end, err := clock()
	return end - begin, err
}

// BenchmarkCodecs is what the codecs of a hand-off cost: all programs of both ends by
// the kernel's own statistics for one connection that sends one byte, connect() with
// that first send, the processor time of a later send of 256 bytes, and throughput by
// sends of 64 KiB. Each round measures each in turn, and begins with another; "l4" goes
// straight to an endpoint. The nodes of original-dst have no programs for headers. Beside
// each median stands the span of the middle half of the rounds.
func BenchmarkCodecs(b *testing.B) {
	plain, option, header := newWired(b), newWired(b), newWired(b)
	type codecCase struct {
		name  string
		world *wired
		from  *wiredPod
		to    netip.AddrPort
	}
	sink := func(p *wiredPod, port uint16) {
		if a := p.do(b, call{Op: "sink", N: int(port)}); a.Errno != 0 {
			b.Fatalf("listen: %v", a.Errno)
		}
	}
	through := func(w *wired, codecs ...intent.Codec) (cases []codecCase) {
		from, way := w.enrolled(b, "default/client"), w.pod(b, w.servers, "default/waypoint")
		must(b, w.server.ServeWaypoint(way.Cgroup, way.Netns, handoff.PortOriginalDst))
		var services []*intent.Service
		for i, codec := range codecs {
			sink(way, codec.Port())
			to := waypointOf(way)
			to.Codec, to.Port = codec, codec.Port()
			svc := service("s"+itoa(i), []string{"10.9.0." + itoa(i+1)}, []uint16{80})
			svc.Waypoint = to
			services = append(services, svc)
			cases = append(cases, codecCase{string(codec), w, from, addrPort("10.9.0." + itoa(i+1) + ":80")})
		}
		w.apply(b, intent.Snapshot{Services: services})
		return cases
	}
	end := plain.pod(b, plain.servers, "default/end")
	sink(end, 7001)
	straight := codecCase{"l4", plain, plain.enrolled(b, "default/client"), addrPort("10.9.0.1:80")}
	plain.apply(b, intent.Snapshot{Services: []*intent.Service{
		service("s", []string{"10.9.0.1"}, []uint16{80}, workload("end", end.v4.String())),
	}})
	cases := append([]codecCase{straight}, through(option, intent.OriginalDst)...)
	cases = append(cases, through(header, intent.ProxyV2, intent.KmeshTLV)...)

	const connects, sends, bulk = 300, 20_000, 256 << 20
	seen := map[string][]float64{}
	note := func(c codecCase, what string, v float64) {
		seen[c.name+"-"+what] = append(seen[c.name+"-"+what], v)
	}
	one := func(c codecCase, q measuring) float64 {
		q.To = c.to
		a := c.from.do(b, call{Op: "measure", Measuring: q})
		if a.Errno != 0 {
			b.Fatalf("%s %s: %v", c.name, q.What, a.Errno)
		}
		return float64(a.Took)
	}
	for b.Loop() {
		cases = append(cases[1:], cases[0])
		for _, c := range cases {
			note(c, "connect-us", one(c, measuring{What: "connect", N: connects})/connects/1e3)
		}
		for _, c := range cases {
			note(c, "send-ns", one(c, measuring{What: "send", N: sends, Size: 256})/sends)
		}
		for _, c := range cases {
			note(c, "Gbit/s", bulk*8/one(c, measuring{What: "bulk", N: bulk, Size: 64 << 10}))
		}
		// The statistics themselves cost something: never beside what is timed.
		stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		must(b, err)
		for _, c := range cases {
			before := c.world.runtime(b)
			one(c, measuring{What: "connect", N: connects})
			note(c, "bpf-us/conn", (c.world.runtime(b)-before)/connects)
		}
		must(b, stats.Close())
	}
	var lines []string // few: of more than ten the rest would be cut
	for _, what := range []string{"bpf-us/conn", "connect-us", "send-ns", "Gbit/s"} {
		line := what + ":"
		for _, name := range []string{"l4", string(intent.OriginalDst), string(intent.ProxyV2), string(intent.KmeshTLV)} {
			values := seen[name+"-"+what]
			b.ReportMetric(median(values), name+"-"+what)
			slices.Sort(values)
			line += fmt.Sprintf("  %s %.4g (%.4g to %.4g)", name, median(values), values[len(values)/4], values[len(values)*3/4])
		}
		lines = append(lines, line)
	}
	b.Log("medians, and the middle half of the rounds\n" + strings.Join(lines, "\n"))
	b.ReportMetric(0, "ns/op")
}

package netsim

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/vishvananda/netlink"
)

// manyPods has five nodes with n pods in all, half of them managed; two of them
// serve.
func manyPods(n int, mesh scenario.Mesh) scenario.Topology {
	const nodes = 5
	t := scenario.Topology{Mesh: mesh, Nodes: make([]scenario.Node, nodes)}
	for i := range t.Nodes {
		t.Nodes[i].Name = fmt.Sprintf("node-%d", i)
	}
	for k := range n {
		node := &t.Nodes[k%nodes]
		node.Pods = append(node.Pods, scenario.Pod{Name: fmt.Sprintf("pod-%d", k), Managed: k%2 == 0})
	}
	t.Nodes[0].Pods[0].Serve = []uint16{8080}
	t.Nodes[nodes-1].Pods[n/nodes-1].Serve = []uint16{8080}
	return t
}

// kernelMemory sums what namespaces and links take of the kernel, in MiB.
func kernelMemory(tb testing.TB) float64 {
	tb.Helper()
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var kib, sum int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch name {
		case "SUnreclaim", "Percpu", "KernelStack", "PageTables":
			if _, err := fmt.Sscan(value, &kib); err != nil {
				tb.Fatal(err)
			}
			sum += kib
		}
	}
	return float64(sum) / 1024
}

// TestFiveHundredPods shows that a large cluster works; how fast is for
// BenchmarkPods to say.
func TestFiveHundredPods(t *testing.T) {
	const pods = 500
	before := kernelMemory(t)
	start := time.Now()
	c := mustOpen(t, Config{}, manyPods(pods, scenario.Duomesh))
	up, memory := time.Since(start), kernelMemory(t)-before
	o := scenario.Objects{Services: []scenario.Service{{
		Name: "svc", Family: scenario.Dual, Ports: []scenario.Port{{Port: 80, Target: 8080}},
		Endpoints: []scenario.Endpoint{{Pod: "pod-0", Weight: 1}, {Pod: "pod-499", Weight: 1}},
	}}}
	if err := c.Apply(testContext(t), o); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"pod-2", "pod-248", "pod-498"} {
		for _, f := range []scenario.Family{scenario.IPv4, scenario.IPv6} {
			got := tally(dial(t, c, from, scenario.Target{Service: "svc", Port: 80, Family: f}, 40))
			if got["pod-0"]+got["pod-499"] != 40 {
				t.Errorf("%s %s: %v, want 40 answered", from, f, got)
			}
		}
	}
	node := mustKeepNetns(t, c, "node-0")
	start = time.Now()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	down := time.Since(start)
	awaitNoLinks(t, node)
	t.Logf("%d pods: up in %v, down in %v, links gone after %v, kernel memory %.0f MiB", pods, up, down, time.Since(start), memory)
}

// mustKeepNetns returns a netlink socket in a node's namespace that outlives
// the cluster.
func mustKeepNetns(tb testing.TB, c *Cluster, node string) *netlink.Handle {
	tb.Helper()
	n, err := c.Node(node)
	if err != nil {
		tb.Fatal(err)
	}
	nl, err := openNetlink(n.Netns)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nl.Close)
	return nl
}

// awaitNoLinks returns when lo is the only link: the other end of each link was
// in a namespace, and the kernel takes namespaces down after their last
// descriptor, not with it.
func awaitNoLinks(tb testing.TB, nl *netlink.Handle) {
	tb.Helper()
	ctx := testContext(tb)
	for {
		links, err := nl.LinkList()
		if err == nil && len(links) == 1 {
			return
		}
		if ctx.Err() != nil {
			tb.Fatalf("%d links are left, %v", len(links), err)
		}
		runtime.Gosched()
	}
}

func BenchmarkPods(b *testing.B) {
	for _, n := range []int{10, 100, 500} {
		b.Run(fmt.Sprintf("duomesh/%d", n), func(b *testing.B) {
			var up, down time.Duration
			for b.Loop() {
				start := time.Now()
				c := mustOpen(b, Config{}, manyPods(n, scenario.Duomesh))
				up += time.Since(start)
				start = time.Now()
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
				down += time.Since(start)
			}
			b.ReportMetric(up.Seconds()/float64(b.N), "up-s/op")
			b.ReportMetric(down.Seconds()/float64(b.N), "down-s/op")
		})
	}
}

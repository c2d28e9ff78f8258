package present

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/bench/result"
)

// breakdownTable is what each variant does for one request, and where its time goes.
func breakdownTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{
		"one request, followed", "µs", "user-space hops", "context switches", "system calls",
		"packets lo/link", "bytes read/written", "user/kernel/queue/idle µs",
	})
	for _, b := range s.Breakdowns {
		name := fmt.Sprintf("%s/%s/%s", b.Placement, b.Mode, b.Variant.Label())
		if b.Reason != "" {
			t.AppendRow(table.Row{name, "NOT RUN: " + b.Reason})
			continue
		}
		var w result.Work
		for _, x := range b.Work {
			w.Calls, w.Switches = w.Calls+x.Calls, w.Switches+x.Switches
			w.BytesRead, w.BytesWritten = w.BytesRead+x.BytesRead, w.BytesWritten+x.BytesWritten
		}
		var lo, link float64
		for _, p := range b.Packets {
			lo, link = lo+p.Loopback, link+p.Link
		}
		sum := map[string]float64{}
		for _, p := range b.Parts {
			sum[p.What] += p.Micros
		}
		t.AppendRow(table.Row{
			name, micros(b.P50), b.Hops, fmt.Sprintf("%.1f", w.Switches), fmt.Sprintf("%.1f", w.Calls),
			fmt.Sprintf("%.1f/%.1f", lo, link), fmt.Sprintf("%.0f/%.0f", w.BytesRead, w.BytesWritten),
			fmt.Sprintf("%.0f/%.0f/%.0f/%.0f", sum[result.PartUser], sum[result.PartKernel], sum[result.PartQueue], sum[result.PartIdle]),
		})
	}
	return t
}

// connectsTable is how connections came to stand.
func connectsTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{"one connection, µs after it was asked for", "destination decided", "SYN on the pod's link", "established", "TLS handshakes"})
	for _, c := range s.Connects {
		wire := "none: it stays in the pod"
		if c.OnWire > 0 {
			wire = micros(c.OnWire)
		}
		t.AppendRow(table.Row{
			fmt.Sprintf("%s/%s", c.Placement, c.Variant.Label()), micros(c.Decided), wire, micros(c.Established),
			fmt.Sprintf("%d of %d connections", c.Handshakes, c.Connections),
		})
	}
	return t
}

// reuseTable is short connections of one pod to one service and to several.
func reuseTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{
		"short connections of one pod", "services", "connections", "errors", "p50 µs", "p99 µs",
		"later than 5 ms", "met TIME_WAIT", "segments sent again",
	})
	for _, r := range s.Reuse {
		if r.Reason != "" {
			t.AppendRow(table.Row{r.Variant.Label(), r.Services, "NOT RUN: " + r.Reason})
			continue
		}
		t.AppendRow(table.Row{r.Variant.Label(), r.Services, r.Connections, r.Errors, micros(r.P50), micros(r.P99), r.Late, r.Refused, r.Repeated})
	}
	return t
}

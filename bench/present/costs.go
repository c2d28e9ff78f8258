package present

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/duomesh/duomesh/bench/result"
)

// costTable is what 1000 requests a second take, in cores and in memory.
func costTable(s result.Summary) table.Writer {
	t := newTable()
	t.AppendHeader(table.Row{
		"1000 requests a second", "at req/s", "cores client", "server", "proxies", "rest", "all",
		"memory of proxies MB", "per 1000 req/s",
	})
	for _, g := range s.Groups {
		if g.Measure != result.Service {
			continue
		}
		for _, r := range g.Rows {
			c := r.Cost
			t.AppendRow(table.Row{
				fmt.Sprintf("%s/%s/%s", g.Placement, g.Mode, r.Variant.Label()), fmt.Sprintf("%.0f", r.PerSecond),
				cores(c.ClientCores), cores(c.ServerCores), cores(c.ProxyCores), cores(c.OtherCores), cores(c.Cores()),
				megabytes(c.ProxyMemory), megabytes(c.ProxyMemoryPer1000),
			})
		}
	}
	var right []table.ColumnConfig
	for n := 2; n <= 9; n++ {
		right = append(right, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(right)
	return t
}

func cores(n float64) string { return fmt.Sprintf("%.3f", n) }

// megabytes says none where there is no process that could have any.
func megabytes(b float64) string {
	if b == 0 {
		return "none"
	}
	return fmt.Sprintf("%.1f", b/1e6)
}

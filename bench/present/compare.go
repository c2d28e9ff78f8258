package present

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// Comparison writes what moved between two runs.
func Comparison(w io.Writer, c result.Comparison) error {
	t := newTable()
	t.AppendHeader(table.Row{"cell", "measure", "change of what it adds, µs [95 %]", "noise, µs", ""})
	for _, x := range c.Changes {
		t.AppendRow(table.Row{x.Cell, x.Measure, signed(x.Change), fmt.Sprintf("%+.1f … %+.1f", x.Floor.Low, x.Floor.High), moved(x)})
	}
	text := fmt.Sprintf("old: revision %s, %d blocks; new: revision %s, %d blocks\n%s\n", c.Old, c.OldBlocks, c.New, c.NewBlocks, t.Render())
	for _, cell := range c.Left {
		text += fmt.Sprintf("%s: only one of the runs has it\n", cell)
	}
	for _, x := range c.Checks {
		text += fmt.Sprintf("%s: %s: %s\n", x.Name, x.Verdict, x.Detail)
	}
	verdict := "verdict: nothing is worse beyond the noise"
	switch n := len(c.Worse()); {
	case n > 0:
		verdict = fmt.Sprintf("verdict: WORSE: %d of %d measures, beyond noise and chance", n, len(c.Changes))
	case c.Verdict == report.Fail:
		verdict = "verdict: the new run is NOT VALID"
	case c.Verdict != report.Pass:
		verdict = "verdict: INCONCLUSIVE: nothing is said"
	}
	_, err := io.WriteString(w, text+verdict+"\n")
	return err
}

// moved puts a change in words. Of many, some are clear of zero by chance.
func moved(x result.Change) string {
	word := map[stats.Difference]string{stats.Higher: "WORSE", stats.Lower: "better"}[x.Moved]
	switch {
	case word == "":
		return string(stats.NoDifference)
	case x.HolmP >= result.MayBeChance:
		return fmt.Sprintf("undecided: may be chance (p %.2g)", x.HolmP)
	}
	return fmt.Sprintf("%s (p %.2g)", word, x.HolmP)
}

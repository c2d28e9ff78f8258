package present

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
)

// Comparison writes what moved between two runs.
func Comparison(w io.Writer, c result.Comparison) error {
	t := newTable()
	t.AppendHeader(table.Row{"cell", "measure", "change of what it adds, µs [95 %]", "noise, µs", ""})
	for _, x := range c.Changes {
		word := map[stats.Difference]string{stats.Higher: "WORSE", stats.Lower: "better"}[x.Moved]
		if word == "" {
			word = string(stats.NoDifference)
		}
		t.AppendRow(table.Row{x.Cell, x.Measure, signed(x.Change), fmt.Sprintf("%+.1f … %+.1f", x.Floor.Low, x.Floor.High), word})
	}
	text := fmt.Sprintf("old: revision %s; new: revision %s\n%s\n", c.Old, c.New, t.Render())
	for _, cell := range c.Left {
		text += fmt.Sprintf("%s: only one of the runs has it\n", cell)
	}
	verdict := "verdict: nothing is worse beyond the noise"
	if n := len(c.Worse()); n > 0 {
		verdict = fmt.Sprintf("verdict: WORSE: %d of %d measures, beyond the noise", n, len(c.Changes))
	}
	_, err := io.WriteString(w, text+verdict+"\n")
	return err
}

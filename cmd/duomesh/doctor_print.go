package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/internal/kernel"
)

// marks are those of docs/compatibility.md.
var marks = map[kernel.Outcome]string{kernel.Works: "✓", kernel.Lacks: "⊘", kernel.Fails: "✗"}

func printDiagnosis(out io.Writer, d kernel.Diagnosis) error {
	var b strings.Builder
	fmt.Fprintf(&b, "kernel %s on %s (✓ works, ⊘ this kernel has no such thing, ✗ fails)\n\n", d.Kernel, d.Machine)
	since := map[string]string{}
	for _, f := range kernel.Features() {
		since[f.Name] = f.Since
	}
	t := newTable(&b, "feature", "", "since", "why not")
	for _, f := range d.Features {
		t.AppendRow(table.Row{f.Name, marks[f.Outcome], since[f.Name], f.Reason})
	}
	t.Render()
	for _, part := range []struct {
		title  string
		trials []kernel.Trial
	}{{"program of the mesh", d.Engine}, {"program of the judge", d.Judge}} {
		t := newTable(&b, part.title, "", "hook", "instructions verified", "why not")
		for _, p := range part.trials {
			t.AppendRow(table.Row{p.Name, marks[p.Outcome], p.Hook, p.Instructions, p.Reason})
		}
		t.Render()
	}
	uses := newTable(&b, "to", "used here", "instead of", "effect")
	for _, u := range d.Uses {
		by := u.By
		if by == "" {
			by = "✗"
		}
		uses.AppendRow(table.Row{u.For, by, strings.Join(u.Instead, "\n"), u.Effect})
	}
	uses.Render()
	for _, p := range append(d.Engine, d.Judge...) {
		if len(p.Log) > 0 {
			fmt.Fprintf(&b, "\nthe verifier on %s:\n  %s\n", p.Name, strings.Join(p.Log, "\n  "))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/internal/kmesh"
)

// kmeshReport is the machine form of doctor --kmesh.
type kmeshReport struct {
	Schema  string        `json:"schema"`
	Version int           `json:"version"`
	Found   []kmesh.Found `json:"found"`
	// Problem is what could not be looked at.
	Problem string `json:"problem,omitempty"`
}

const kmeshSchema = "duomesh/doctor-kmesh"

// findKmesh prints what Kmesh has on a node. What could not be looked at is an error,
// after what was found.
func findKmesh(n kmesh.Node, output string, out io.Writer) error {
	if os.Geteuid() != 0 {
		return usagef("root is needed to see BPF programs and pins: run it with sudo")
	}
	found, problem := kmesh.Find(n)
	var err error
	if output == "json" {
		r := kmeshReport{Schema: kmeshSchema, Version: 1, Found: append([]kmesh.Found{}, found...)}
		if problem != nil {
			r.Problem = problem.Error()
		}
		err = json.NewEncoder(out).Encode(r)
	} else {
		_, err = io.WriteString(out, kmeshText(found, problem == nil))
	}
	if err != nil {
		return fmt.Errorf("write what was found: %w", err)
	}
	return problem
}

// kmeshText says what was found; that there is nothing it says only where all was looked at.
func kmeshText(found []kmesh.Found, all bool) string {
	switch {
	case len(found) == 0 && all:
		return "nothing of Kmesh is on this node\n"
	case len(found) == 0:
		return "nothing of Kmesh was found, but not everything could be looked at\n"
	}
	var b strings.Builder
	t := newTable(&b, "step", "what", "where", "as long as it is there", "to remove it")
	for _, f := range found {
		t.AppendRow(table.Row{f.Step, f.What, f.Where, f.Effect, f.Remove})
	}
	t.Render()
	b.WriteString("\nWhat has a lower step goes first. Nothing was touched. docs/migrate-from-kmesh.md says what to do before step 1.\n")
	return b.String()
}

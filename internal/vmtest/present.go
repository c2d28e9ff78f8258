package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
)

// List writes the kernels of a matrix.
func List(w io.Writer, m Matrix) error {
	t := newTable(w)
	t.AppendHeader(table.Row{"kernel", "by default", "source", "promises"})
	for _, k := range m {
		byDefault := k.Default == nil || *k.Default
		t.AppendRow(table.Row{k.Name, byDefault, k.Source.given()[0], len(k.Promises)})
	}
	t.Render()
	return nil
}

func newTable(w io.Writer) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	return t
}

var marks = map[kernel.Outcome]string{kernel.Works: "✓", kernel.Lacks: "⊘", kernel.Fails: "✗", "": "–"}

// matrixRow is one feature or program over all kernels.
type matrixRow struct {
	name  string
	cells []string
}

// featureRows and programRows keep the order in which doctor shows them. The cell
// of a program that works is its verified-instruction count.
func featureRows(kernels []Diagnosed) []matrixRow {
	return rows(kernels, func(d Diagnosed) []kernel.Trial { return d.Features }, func(t kernel.Trial) string {
		return marks[t.Outcome]
	})
}

func programRows(kernels []Diagnosed) []matrixRow {
	all := func(d Diagnosed) []kernel.Trial { return append(slices.Clone(d.Engine), d.Judge...) }
	return rows(kernels, all, func(t kernel.Trial) string {
		if t.Outcome == kernel.Works {
			return fmt.Sprintf("%s %d", marks[t.Outcome], t.Instructions)
		}
		return marks[t.Outcome]
	})
}

func rows(kernels []Diagnosed, of func(Diagnosed) []kernel.Trial, cell func(kernel.Trial) string) []matrixRow {
	var all []matrixRow
	at := map[string]int{}
	for i, k := range kernels {
		for _, t := range of(k) {
			row, ok := at[t.Name]
			if !ok {
				row = len(all)
				at[t.Name] = row
				all = append(all, matrixRow{t.Name, slices.Repeat([]string{marks[""]}, len(kernels))})
			}
			all[row].cells[i] = cell(t)
		}
	}
	return all
}

// Print writes what was found for people: the matrix, the times and the events.
func Print(w io.Writer, r Report) error {
	kernels := r.Kernels
	for _, part := range []struct {
		title string
		rows  []matrixRow
	}{{"feature", featureRows(kernels)}, {"program: instructions verified", programRows(kernels)}} {
		t := newTable(w)
		t.AppendHeader(headerRow(part.title, kernels))
		for _, r := range part.rows {
			row := table.Row{r.name}
			for _, c := range r.cells {
				row = append(row, c)
			}
			t.AppendRow(row)
		}
		t.Render()
	}
	printTook(w, r.took)
	return nil
}

func headerRow(first string, kernels []Diagnosed) table.Row {
	row := table.Row{first}
	for _, k := range kernels {
		row = append(row, k.Kernel)
	}
	return row
}

// WriteResults writes matrix.json and junit.xml.
func WriteResults(dir string, r Report) error {
	data, err := json.MarshalIndent(struct {
		Schema  string      `json:"schema"`
		Version int         `json:"version"`
		Kernels []Diagnosed `json:"kernels"`
	}{"duomesh/kernel-matrix", 1, r.Kernels}, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "matrix.json"), append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write matrix: %w", err)
	}
	f, err := os.Create(filepath.Join(dir, "junit.xml"))
	if err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	return errors.Join(testsum.WriteJUnit(f, r.Cases), f.Close())
}

// reasons lists why something does not work, one line per kernel and reason.
func reasons(kernels []Diagnosed) []string {
	seen := map[string]bool{}
	for _, k := range kernels {
		for _, t := range slices.Concat(k.Features, k.Engine, k.Judge) {
			if t.Outcome != kernel.Works {
				seen[fmt.Sprintf("%s, %s: %s", k.Kernel, t.Name, strings.TrimSpace(t.Reason))] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

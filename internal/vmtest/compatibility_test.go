package vmtest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/kernel"
)

// tableOf reads a table of docs/compatibility.md: row → column → cell.
func tableOf(t *testing.T, text, title string) map[string]map[string]string {
	t.Helper()
	_, text, found := strings.Cut(text, "\n## "+title+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	if !found {
		t.Fatalf("no part %q", title)
	}
	var heads []string
	rows := map[string]map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if heads == nil {
			heads = cells
			continue
		}
		row := map[string]string{}
		for i, c := range cells[1:] {
			row[heads[i+1]] = strings.TrimSpace(c)
		}
		rows[cells[0]] = row
	}
	return rows
}

// docs/compatibility.md is what the kernels of the matrix have shown: it names each
// feature and program there is, says what kernels.yaml promises, and its programs keep
// their budgets.
func TestCompatibilityIsInDate(t *testing.T) {
	data, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	const again = ": run make compatibility"
	features := tableOf(t, string(data), "Features")
	for _, f := range kernel.Features() {
		if features[f.Name] == nil {
			t.Errorf("it does not have feature %s"+again, f.Name)
		}
		delete(features, f.Name)
	}
	for name := range features {
		t.Errorf("it has a feature %s that there is not"+again, name)
	}
	features = tableOf(t, string(data), "Features")
	chosen, err := m.Choose(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range chosen {
		for _, f := range k.Promises {
			if got := features[f][k.Name]; got != marks[kernel.Works] {
				t.Errorf("kernel %s promises %s, and it says %q"+again, k.Name, f, got)
			}
		}
		for _, f := range k.Lacks {
			if got := features[f][k.Name]; got != marks[kernel.Lacks] {
				t.Errorf("kernel %s lacks %s, and it says %q"+again, k.Name, f, got)
			}
		}
	}
	budget, err := LoadBudget()
	if err != nil {
		t.Fatal(err)
	}
	programs := tableOf(t, string(data), "Programs")
	for name, row := range programs {
		for on, cell := range row {
			_, count, works := strings.Cut(cell, marks[kernel.Works]+" ")
			if n, err := strconv.Atoi(count); works && (err != nil || n > budget[name]) {
				t.Errorf("%s on %s: %q, and its budget is %d"+again, name, on, cell, budget[name])
			}
		}
	}
	var missing []string
	for name := range budget {
		if programs[name] == nil {
			missing = append(missing, name)
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Errorf("it does not have the programs %v"+again, missing)
	}
}

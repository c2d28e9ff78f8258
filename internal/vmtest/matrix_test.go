package vmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuiltinMatrix(t *testing.T) {
	m, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := m.Choose(nil)
	if err != nil || len(chosen) < 3 {
		t.Errorf("%d kernels run by default, want at least 3 (%v)", len(chosen), err)
	}
	if _, err := m.Choose([]string{"linux-0.1"}); err == nil || !strings.Contains(err.Error(), "unknown kernel linux-0.1") {
		t.Errorf("an unknown kernel: %v", err)
	}
	if b, err := LoadBudget(); err != nil || len(b) == 0 {
		t.Errorf("budget: %v, %v", b, err)
	}
}

func TestBadMatrix(t *testing.T) {
	for says, text := range map[string]string{
		"names no kernel":                 "kernels: []",
		"unknown field":                   "kernels: [{name: a, sauce: {deb: b}}]",
		"has 0 sources":                   "kernels: [{name: a}]",
		"has 2 sources":                   "kernels: [{name: a, source: {deb: b, file: c}}]",
		"named twice":                     "kernels: [{name: a, source: {deb: b}}, {name: a, source: {deb: b}}]",
		"both promises and lacks kprobe":  "kernels: [{name: a, source: {deb: b}, promises: [kprobe], lacks: [kprobe]}]",
		`kernel name "../a": must be one`: "kernels: [{name: ../a, source: {deb: b}}]",
		`kernel name "a,b": must be one`:  "kernels: [{name: 'a,b', source: {deb: b}}]",
		`kernel name ".." is taken`:       "kernels: [{name: .., source: {deb: b}}]",
		`kernel name "host" is taken`:     "kernels: [{name: host, source: {deb: b}}]",
		`a: unknown feature "kprobes"`:    "kernels: [{name: a, source: {deb: b}, promises: [BTF, kprobes]}]",
		`a: unknown feature "btf"`:        "kernels: [{name: a, source: {deb: b}, lacks: [btf]}]",
		"has a run nonsense":              "kernels: [{name: a, source: {deb: b}, runs: [nonsense]}]",
		"has a suite, which belongs":      "kernels: [{name: a, source: {file: b, suite: c}}]",
		"no such file":                    "",
	} {
		path := filepath.Join(t.TempDir(), "kernels.yaml")
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("matrix %q: %v, want %q", text, err, says)
		}
	}
}

// A kernel that makes none of the chosen runs would boot, run nothing and pass.
func TestKernelsThatMakeNoChosenRun(t *testing.T) {
	c := Config{Only: []string{kernelRun}, Kernels: Matrix{
		{Name: "all"}, {Name: "another", Runs: []string{doctorRun}}, {Name: "this", Runs: []string{doctorRun, kernelRun}},
	}}
	some, none := c.Making()
	if got := strings.Join(some.Names(), " "); got != "all this" {
		t.Errorf("made on %q", got)
	}
	if got := strings.Join(none.Names(), " "); got != "another" {
		t.Errorf("not made on %q", got)
	}
	c.Only = nil
	if _, none := c.Making(); len(none) > 0 {
		t.Errorf("without a choice not made on %v", none.Names())
	}
}

package vmtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/kernel"
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
	var known []string
	for _, f := range kernel.Features() {
		known = append(known, f.Name)
	}
	for _, k := range m {
		for _, f := range slices.Concat(k.Promises, k.Lacks) {
			if !slices.Contains(known, f) {
				t.Errorf("kernel %s: there is no feature %q", k.Name, f)
			}
		}
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

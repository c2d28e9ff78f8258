package vmtest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

func twoKernels() []Diagnosed {
	return []Diagnosed{
		{"old", kernel.Diagnosis{
			Kernel: "5.10.1", Machine: "x86_64",
			Features: []kernel.Trial{{Name: "tcx", Outcome: kernel.Lacks, Reason: "not supported"}},
			Engine:   []kernel.Trial{{Name: "mesh_connect4", Outcome: kernel.Works, Instructions: 900}},
			Uses:     []kernel.Use{{For: "observe wire-syn", By: "clsact"}},
		}},
		{"new", kernel.Diagnosis{
			Kernel: "7.1", Machine: "x86_64",
			Features: []kernel.Trial{{Name: "tcx", Outcome: kernel.Works}},
			Engine:   []kernel.Trial{{Name: "mesh_connect4", Outcome: kernel.Works, Instructions: 1001}},
			Judge:    []kernel.Trial{{Name: "wire", Outcome: kernel.Fails, Reason: "the verifier refuses it"}},
			Uses:     []kernel.Use{{For: "observe wire-syn"}},
		}},
	}
}

func TestCompatibilityAndBudget(t *testing.T) {
	dir := t.TempDir()
	table, budget := filepath.Join(dir, "c.md"), filepath.Join(dir, "b.yaml")
	if err := WriteCompatibility(table, twoKernels()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| old | 5.10.1 | x86_64 |", "| tcx | 6.6 (seen: not in 5.10, in 7.1) | ⊘ | ✓ |", "| mesh_connect4 | ✓ 900 | ✓ 1001 |",
		"| wire | – | ✗ |", "- old, tcx: not supported", "- new, wire: the verifier refuses it",
		"| observe wire-syn | clsact | ⊘ |",
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	if err := WriteBudget(budget, twoKernels()); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(budget); err != nil || !strings.Contains(string(text), "\nmesh_connect4: 1300\n") {
		t.Errorf("budget of 1001 instructions and a quarter: %v\n%s", err, text)
	}
}

func TestInitramfs(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"init": "i", "a.ko": "m", "tool": "t"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "initramfs")
	img := image{
		init: filepath.Join(dir, "init"), modules: []string{filepath.Join(dir, "a.ko")},
		files: map[string]string{guest.TestDir + "/tool": filepath.Join(dir, "tool")},
		runs:  []guest.Run{{Name: "r", Argv: []string{"/test/tool"}}},
	}
	if err := img.write(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	content := map[string]string{}
	for r := cpio.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names, content[h.Name] = append(names, h.Name), string(data)
	}
	want := []string{"init", "modules", "modules/a.ko", "test", "test/tool", "job.json"}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q, directories before what is in them", names, want)
	}
	var job guest.Job
	if err := json.Unmarshal([]byte(content["job.json"]), &job); err != nil || !slices.Equal(job.Modules, []string{"a.ko"}) || len(job.Runs) != 1 {
		t.Errorf("job %+v, %v", job, err)
	}
	if content["test/tool"] != "t" {
		t.Errorf("content %q", content)
	}
	img.init = filepath.Join(dir, "absent")
	if err := img.write(path); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A release is seen where an older kernel lacks the feature and a newer one has it;
// that all have it says nothing.
func TestConfirmed(t *testing.T) {
	on := func(release string, o kernel.Outcome) Diagnosed {
		d := Diagnosed{Kernel: release}
		d.Diagnosis.Kernel, d.Features = release, []kernel.Trial{{Name: "tcx", Outcome: o}}
		return d
	}
	for want, kernels := range map[string][]Diagnosed{
		"6.6 (seen: not in 6.1, in 6.12)": {
			on("6.18.1", kernel.Works), on("6.1.0-56-cloud-amd64", kernel.Lacks), on("6.12.117+deb13", kernel.Works),
			on("5.10.1", kernel.Lacks), on("7.1.2", kernel.Lacks),
		},
		"6.6 (documented)": {on("6.18.1", kernel.Works), on("6.12.1", kernel.Works)},
	} {
		if got := confirmed("6.6", "tcx", kernels); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := confirmed("", "tcx", nil); got != "" {
		t.Errorf("got %s", got)
	}
}

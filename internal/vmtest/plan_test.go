package vmtest

import (
	"slices"
	"strings"
	"testing"
)

func TestOneScenarioOfEachFamily(t *testing.T) {
	got := oneOfEach([]string{"a/1/x", "a/2", "b/1", "a/3", "b/2", "c"})
	if want := []string{"a/1/x", "b/1", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Each scenario runs on one of the kernels that have all that its judge needs, and all
// of dataplane/l4 on at least two; everywhere where everything is run.
func TestKernelsShareTheWork(t *testing.T) {
	ran, whole := map[string]int{}, 0
	for _, k := range builtinKernels(t) {
		r := &runner{plan: plan(false)}
		runs := r.planFor(k)
		if got := named(runs, []string{doctorRun, kernelRun}); len(got) != 2 {
			t.Errorf("kernel %s: does not load every program", k.Name)
		}
		whole += len(named(runs, []string{l4Run}))
		for _, p := range runs {
			if !k.Promised("BTF") || strings.HasPrefix(p.name, judgedBy) {
				continue
			}
			for _, name := range p.scenarios {
				ran[name]++
			}
		}
		r.Full = true
		full := r.planFor(k)
		if len(named(full, []string{verifyRun, l4Run})) != 2 || len(named(full, []string{briefRun, oneOfEachRun, evenRun, oddRun})) > 0 {
			t.Errorf("kernel %s: not everything once where everything is run", k.Name)
		}
	}
	for _, name := range single() {
		if ran[name] != 1 {
			t.Errorf("scenario %s runs on %d kernels, want 1", name, ran[name])
		}
	}
	if whole < 2 {
		t.Errorf("all of dataplane/l4 runs on %d kernels, want 2", whole)
	}
}

func builtinKernels(t *testing.T) Matrix {
	t.Helper()
	m, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := m.Choose(nil)
	if err != nil {
		t.Fatal(err)
	}
	return chosen
}

func TestLongestFirst(t *testing.T) {
	r := &runner{plan: plan(false), Config: Config{Kernels: Matrix{
		{Name: "two", Runs: []string{doctorRun, kernelRun}},
		{Name: "all"},
		{Name: "one", Runs: []string{doctorRun}},
		{Name: "two more", Runs: []string{doctorRun, kernelRun}},
	}}}
	if got, want := r.longestFirst(), []int{1, 0, 3, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// All programs are built into one directory.
func TestProgramsHaveNamesOfTheirOwn(t *testing.T) {
	pkgs := map[string]string{}
	for _, p := range slices.Concat([]program{initProgram}, beside, plan(true)) {
		if other, ok := pkgs[p.binary()]; ok && other != p.pkg {
			t.Errorf("%s and %s both become %s", p.pkg, other, p.binary())
		}
		pkgs[p.binary()] = p.pkg
	}
}

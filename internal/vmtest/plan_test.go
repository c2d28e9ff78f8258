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
	families := map[string]bool{}
	for _, name := range single() {
		family, _, _ := strings.Cut(name, "/")
		families[family] = true
	}
	for _, k := range builtinKernels(t) {
		r := &runner{plan: plan(false)}
		runs := r.planFor(k)
		all, some := named(runs, []string{verifyRun}), named(runs, []string{oneOfEachRun})
		if len(all)+len(some) != 1 {
			t.Errorf("kernel %s: all scenarios %d times, one of each family %d times", k.Name, len(all), len(some))
		}
		if len(some) == 1 && len(some[0].scenarios) != len(families) {
			t.Errorf("kernel %s: %v of %d families", k.Name, some[0].scenarios, len(families))
		}
		r.Full = true
		if full := r.planFor(k); len(named(full, []string{verifyRun})) != 1 || len(named(full, []string{oneOfEachRun})) > 0 {
			t.Errorf("kernel %s: not all scenarios once where everything is run", k.Name)
		}
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

package vmtest

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
)

//go:embed budget.yaml
var builtinBudget []byte

// Budget is the most instructions that any kernel's verifier may process, by
// program. A program without a budget fails: state one.
type Budget map[string]int

// LoadBudget reads the budget of this build.
func LoadBudget() (Budget, error) {
	var b Budget
	if err := yaml.UnmarshalWithOptions(builtinBudget, &b, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read verifier budget: %w", err)
	}
	return b, nil
}

// check says what is wrong with a program that works, or "".
func (b Budget) check(t kernel.Trial) string {
	limit, ok := b[t.Name]
	switch {
	case t.Instructions == 0:
		return fmt.Sprintf("the verifier's work on program %s is not known", t.Name)
	case !ok:
		return fmt.Sprintf("program %s has no verifier budget; it takes %d instructions here (make test-kernel ARGS=-write-budget)", t.Name, t.Instructions)
	case t.Instructions > limit:
		return fmt.Sprintf("the verifier processes %d instructions of program %s, the budget is %d", t.Instructions, t.Name, limit)
	}
	return ""
}

// stale fails entries of programs that no kernel has.
func (b Budget) stale(kernels []Diagnosed) []testsum.Case {
	if len(kernels) == 0 {
		return nil
	}
	counts := most(kernels)
	var cases []testsum.Case
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, there := counts[name]; !there {
			cases = append(cases, testsum.Case{
				Package: "budget", Name: name, Outcome: testsum.Failed,
				Reason: "budget.yaml has a program that does not exist",
			})
		}
	}
	return cases
}

// most is the greatest count of each program over the kernels.
func most(kernels []Diagnosed) map[string]int {
	counts := map[string]int{}
	for _, k := range kernels {
		for _, t := range append(slices.Clone(k.Engine), k.Judge...) {
			counts[t.Name] = max(counts[t.Name], t.Instructions)
		}
	}
	return counts
}

const budgetHead = `# The most instructions that any kernel's verifier may process, by program: what
# was measured in the matrix when this was written, a quarter more, rounded up to
# 50. A change that needs more raises it here, where a reviewer sees it.
# Written by ` + "`make test-kernel ARGS=-write-budget`.\n"

// WriteBudget writes a budget from what was measured.
func WriteBudget(path string, kernels []Diagnosed) error {
	var b strings.Builder
	b.WriteString(budgetHead)
	counts := most(kernels)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		const step = 50
		limit := (counts[name]*5/4 + step - 1) / step * step
		fmt.Fprintf(&b, "%s: %d\n", name, max(limit, step))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write verifier budget: %w", err)
	}
	return nil
}

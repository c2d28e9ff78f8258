package vmtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
)

// kernelRun is the one that gives the verifier programs that are broken on purpose.
const kernelRun = "internal/kernel"

// broken is what tests say of each such program, as a kernel.Trial.
var broken = regexp.MustCompile(`(?m)broken program (\{.*\})\r?$`)

// brokenPrograms are those programs, and what each kernel's verifier says of them.
var brokenPrograms = map[string]string{
	"too_complex":   "BPF program is too large",
	"wrong_context": "invalid bpf_context access",
}

// refusals are controls: the programs that a kernel's verifier has refused there must be
// failures that name the kernel and the program and have the verifier's words.
func (j *judge) refusals(output string) (cases []testsum.Case, told []string) {
	tried := map[string]kernel.Trial{}
	for _, m := range broken.FindAllStringSubmatch(output, -1) {
		var t kernel.Trial
		if json.Unmarshal([]byte(m[1]), &t) == nil {
			tried[t.Name] = t
		}
	}
	for _, name := range slices.Sorted(maps.Keys(brokenPrograms)) {
		c := testsum.Case{Package: j.kernel.suite("controls"), Name: "a broken program is a failure: " + name}
		t, there := tried[name]
		became := j.program(t)
		switch {
		case !there:
			c.Outcome, c.Reason = testsum.Failed, "it was not tried"
		case !tells(became, j.kernel.Name, name, t.Hook) || !strings.Contains(became.Output, brokenPrograms[name]):
			c.Outcome, c.Output = testsum.Failed, became.Output
			c.Reason = fmt.Sprintf("outcome %d, told as %q", became.Outcome, became.Reason)
		default:
			told = append(told, became.Reason+"; the verifier's log ends:\n"+became.Output)
		}
		cases = append(cases, c)
	}
	return cases, told
}

// tells reports whether a case is a failure with all of the words in its reason.
func tells(c testsum.Case, words ...string) bool {
	return c.Outcome == testsum.Failed && !slices.ContainsFunc(words, func(w string) bool {
		return w == "" || !strings.Contains(c.Reason, w)
	})
}

// unkept are controls on what was found on a kernel: each feature that it lacks, were it
// promised, and each program, were its budget one instruction less than it needs, must be
// a failure that names kernel and feature, or program.
func (j *judge) unkept(d *Diagnosed) (cases []testsum.Case, told []string) {
	k := Kernel{Name: j.kernel.Name, Promises: j.kernel.Lacks}
	promise := testsum.Case{Package: k.suite("controls"), Name: "a promise that the kernel does not keep is a failure"}
	for i, c := range k.promised(d.Features) {
		if feature := k.Promises[i]; !tells(c, "kernel "+k.Name+" promises "+feature) {
			promise.Outcome, promise.Reason = testsum.Failed, fmt.Sprintf("%s: outcome %d: %s", feature, c.Outcome, c.Reason)
		}
		if i == 0 {
			told = append(told, c.Reason)
		}
	}
	if len(k.Promises) > 0 {
		cases = append(cases, promise)
	}
	budget := testsum.Case{Package: k.suite("controls"), Name: "a program that outgrows its budget is a failure"}
	outgrown := 0
	for _, t := range slices.Concat(d.Engine, d.Judge) {
		if t.Outcome != kernel.Works {
			continue
		}
		outgrown++
		tight := judge{kernel: j.kernel, budget: Budget{t.Name: t.Instructions - 1}}
		c := tight.program(t)
		if !tells(c, "kernel "+k.Name, "program "+t.Name, "the budget is") {
			budget.Outcome, budget.Reason = testsum.Failed, fmt.Sprintf("%s: outcome %d: %s", t.Name, c.Outcome, c.Reason)
		}
		if outgrown == 1 {
			told = append(told, c.Reason)
		}
	}
	if outgrown == 0 {
		budget.Outcome, budget.Reason = testsum.Failed, "no program works here"
	}
	return append(cases, budget), told
}

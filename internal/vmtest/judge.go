package vmtest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"unicode"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// bootCase is the machine itself.
const bootCase = "boots, runs everything and ends"

// Diagnosed is a kernel of the matrix with what `duomesh doctor` said in it.
type Diagnosed struct {
	Kernel string `json:"name"`
	kernel.Diagnosis
}

// judge turns what a machine sent into cases.
type judge struct {
	kernel    Kernel
	budget    Budget
	records   []guest.Record
	progress  io.Writer
	goCommand string
	diagnosed *Diagnosed
}

func (k Kernel) suite(part string) string { return k.Name + ":" + part }

func failed(k Kernel, name, reason string) testsum.Case {
	return testsum.Case{Package: k.suite("machine"), Name: name, Outcome: testsum.Failed, Reason: reason}
}

func bootResult(k Kernel, death *DeathError) testsum.Case {
	c := testsum.Case{Package: k.suite("machine"), Name: bootCase}
	if death != nil {
		c.Outcome, c.Reason, c.Output = testsum.Failed, death.Error(), death.Tail
	}
	return c
}

// run judges one program's run.
func (j *judge) run(ctx context.Context, p program, r *result) []testsum.Case {
	if r.problem != "" && !p.test {
		return []testsum.Case{j.fail(p.name, r.problem, r.output)}
	}
	switch {
	case p.name == doctorRun:
		return j.doctor(r)
	case len(p.scenarios) > 0:
		return j.scenarios(p.name, p.scenarios, r)
	}
	return j.tests(ctx, p, r)
}

func (j *judge) fail(name, reason, output string) testsum.Case {
	return testsum.Case{
		Package: j.kernel.suite(name), Name: "(run)", Outcome: testsum.Failed, Reason: reason, Output: output,
	}
}

// tests counts what a test binary printed.
func (j *judge) tests(ctx context.Context, p program, r *result) []testsum.Case {
	cmd := exec.CommandContext(ctx, j.goCommand, "tool", "test2json", "-p", j.kernel.suite(p.name))
	cmd.Stdin = strings.NewReader(r.output)
	events, err := cmd.Output()
	if err != nil {
		return []testsum.Case{j.fail(p.name, "its output cannot be read: "+err.Error(), r.output)}
	}
	cases, err := testsum.Read(bytes.NewReader(events), j.progress)
	switch {
	case err != nil:
		return append(cases, j.fail(p.name, err.Error(), r.output))
	case r.problem != "":
		return append(cases, j.fail(p.name, r.problem, lastPart(r.output)))
	case r.exit != 0 && testsum.Count(cases).Failed == 0:
		return append(cases, j.fail(p.name, fmt.Sprintf("exit code %d", r.exit), lastPart(r.output)))
	case len(cases) == 0:
		return append(cases, j.fail(p.name, "it ran no test", r.output))
	}
	return cases
}

func lastPart(s string) string { return s[max(0, len(s)-4000):] }

// scenarios reads the JSON lines of `duomesh verify`. Each that was asked for must have
// its line, and a bad exit code its reason.
func (j *judge) scenarios(run string, asked []string, r *result) []testsum.Case {
	var cases []testsum.Case
	judged := map[string]bool{}
	lines := bufio.NewScanner(strings.NewReader(r.output))
	lines.Buffer(nil, len(r.output)+1)
	for lines.Scan() {
		var one report.Result
		if !strings.HasPrefix(lines.Text(), "{") || json.Unmarshal(lines.Bytes(), &one) != nil || one.Scenario == "" {
			continue // what it says for people
		}
		judged[one.Scenario] = true
		cases = append(cases, scenarioCase(j.kernel.suite(run), one))
	}
	if len(cases) == 0 && r.exit == report.ExitUsage {
		// The judge cannot work on this kernel: refused, by name. Whether that
		// is as it should be, settle decides.
		return []testsum.Case{{
			Package: j.kernel.suite(run), Name: "(all)", Outcome: testsum.Skipped,
			Reason: "NOT RUN: " + strings.TrimSpace(lastPart(r.output)),
		}}
	}
	if len(cases) == 0 {
		return []testsum.Case{j.fail(run, "it judged no scenario", lastPart(r.output))}
	}
	for _, name := range asked {
		if !judged[name] {
			c := j.fail(run, "it was asked for and not judged", "")
			c.Name = name
			cases = append(cases, c)
		}
	}
	if r.exit != 0 && !slices.ContainsFunc(cases, func(c testsum.Case) bool { return c.Outcome != testsum.Passed }) {
		cases = append(cases, j.fail(run, fmt.Sprintf("exit code %d", r.exit), lastPart(r.output)))
	}
	return cases
}

func scenarioCase(pkg string, r report.Result) testsum.Case {
	c := testsum.Case{Package: pkg, Name: r.Scenario, Elapsed: r.Elapsed, Reason: r.Reason}
	switch r.Verdict {
	case report.Pass:
	case report.NotRun:
		c.Outcome = testsum.Skipped
		c.Reason = "NOT RUN: " + r.Reason
	default:
		c.Outcome = testsum.Failed
		for _, check := range r.Checks {
			if check.Verdict != report.Pass {
				c.Output += fmt.Sprintf("%s: %s: %s\n", check.Verdict, check.Name, check.Detail)
			}
		}
		first, _, _ := strings.Cut(c.Output, "\n")
		c.Reason = strings.TrimSpace(cmp.Or(r.Reason, first))
	}
	return c
}

// settle decides about skips: one that names a feature which the kernel is known
// to lack is as it should be; any other has not shown what it was there for, and
// fails.
func (k Kernel) settle(cases []testsum.Case) []testsum.Case {
	for i := range cases {
		c := &cases[i]
		if c.Outcome == testsum.Skipped && !slices.ContainsFunc(k.Lacks, func(f string) bool { return namesFeature(c.Reason, f) }) {
			c.Outcome = testsum.Failed
			c.Reason = "skipped for something that kernels.yaml does not list as lacking: " + c.Reason
		}
	}
	return cases
}

// namesFeature reports whether a reason is "NOT RUN: …" and has the feature as a
// word of its own.
func namesFeature(reason, feature string) bool {
	rest, ok := strings.CutPrefix(reason, "NOT RUN: ")
	for ok {
		before, after, found := strings.Cut(rest, feature)
		if !found {
			return false
		}
		if !endsInName(before) && !beginsName(after) {
			return true
		}
		rest = after
	}
	return false
}

func endsInName(s string) bool {
	return strings.TrimRightFunc(s, isNameRune) != s
}

func beginsName(s string) bool {
	return strings.TrimLeftFunc(s, isNameRune) != s
}

// isNameRune: "kprobe" is not named by "kprobe.multi".
func isNameRune(r rune) bool {
	return r == '.' || r == '_' || r == '-' || unicode.IsLetter(r) || unicode.IsDigit(r)
}

package vmtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
)

// doctor reads a Diagnosis, and holds it against the promises and the budget.
func (j *judge) doctor(r *result) []testsum.Case {
	d, ok := parseDiagnosis(j.kernel.Name, r.output)
	if !ok {
		return []testsum.Case{j.fail(doctorRun, "it said nothing that can be read", lastPart(r.output))}
	}
	j.diagnosed = d
	return j.diagnosis(d)
}

func (j *judge) diagnosis(d *Diagnosed) []testsum.Case {
	cases := j.kernel.promised(d.Features)
	for _, p := range append(slices.Clone(d.Engine), d.Judge...) {
		cases = append(cases, j.program(p))
	}
	return cases
}

// parseDiagnosis reads what doctor wrote, after what else it may have said.
func parseDiagnosis(name, output string) (*Diagnosed, bool) {
	d := &Diagnosed{Kernel: name}
	text := output[max(0, strings.IndexByte(output, '{')):]
	err := json.NewDecoder(strings.NewReader(text)).Decode(&d.Diagnosis)
	return d, err == nil && d.Schema == kernel.DiagnosisSchema && d.Version == kernel.DiagnosisVersion
}

// promised holds what was tried against what kernels.yaml says.
func (k Kernel) promised(tried []kernel.Trial) []testsum.Case {
	var cases []testsum.Case
	outcome := map[string]kernel.Trial{}
	for _, t := range tried {
		outcome[t.Name] = t
	}
	for _, f := range k.Promises {
		c := testsum.Case{Package: k.suite("features"), Name: "promised: " + f}
		if t := outcome[f]; t.Outcome != kernel.Works {
			c.Outcome = testsum.Failed
			c.Reason = fmt.Sprintf("kernel %s promises %s, and it does not work: %s", k.Name, f, orUnknown(t))
		}
		cases = append(cases, c)
	}
	for _, f := range k.Lacks {
		c := testsum.Case{Package: k.suite("features"), Name: "lacking: " + f}
		if t := outcome[f]; t.Outcome != kernel.Lacks {
			c.Outcome = testsum.Failed
			c.Reason = fmt.Sprintf("kernels.yaml says that kernel %s lacks %s, and doctor says: %s", k.Name, f, orUnknown(t))
		}
		cases = append(cases, c)
	}
	return cases
}

func orUnknown(t kernel.Trial) string {
	switch {
	case t.Name == "":
		return "doctor does not know it"
	case t.Reason == "":
		return string(t.Outcome)
	}
	return string(t.Outcome) + ": " + t.Reason
}

// program judges one program: it works, within its budget, or it needs something
// that this kernel is known to lack.
func (j *judge) program(t kernel.Trial) testsum.Case {
	c := testsum.Case{Package: j.kernel.suite("programs"), Name: t.Name}
	switch {
	case t.Outcome == kernel.Works:
		if problem := j.budget.check(t); problem != "" {
			c.Outcome, c.Reason = testsum.Failed, fmt.Sprintf("kernel %s: %s", j.kernel.Name, problem)
		}
	case t.Outcome == kernel.Lacks && j.missing(t.Needs) != "":
		// As the matrix says; the table shows it.
		c.Name += ": refused for want of " + j.missing(t.Needs)
	default:
		c.Outcome = testsum.Failed
		c.Reason = fmt.Sprintf("kernel %s: program %s (%s) %s: %s", j.kernel.Name, t.Name, t.Hook, t.Outcome, t.Reason)
		c.Output = strings.Join(t.Log, "\n")
	}
	return c
}

// missing is the first of the features that this kernel lacks.
func (j *judge) missing(needs []string) string {
	for _, n := range needs {
		if slices.Contains(j.kernel.Lacks, n) {
			return n
		}
	}
	return ""
}

package testsum

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/onsi/ginkgo/v2/types"
)

// suiteStarted is what Ginkgo prints first in the Go test that runs its specs.
const suiteStarted = "Running Suite: "

// withSpecs puts the specs of a suite in the place of the Go test that ran them.
func (p *goPackage) withSpecs(cases []Case, specs suiteFunc) []Case {
	var kept []Case
	var entry *Case
	for i, c := range cases {
		if t := p.byName[c.Name]; t != nil && strings.Contains(t.output.String(), suiteStarted) {
			entry = &cases[i]
			continue
		}
		kept = append(kept, c)
	}
	counted, err := specs(entry != nil)
	if err != nil {
		counted = append(counted, Case{Package: p.path, Name: packageCase, Outcome: Failed, Reason: err.Error()})
	}
	if entry != nil && entry.Outcome == Failed && Count(counted).Failed == 0 {
		counted = append(counted, *entry)
	}
	return append(kept, counted...)
}

// readGinkgo returns the specs of the report that a suite wrote to path.
func readGinkgo(path, pkg string) ([]Case, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the suite's report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(raw, &reports); err != nil {
		return nil, fmt.Errorf("read the suite's report %s: %w", path, err)
	}
	var cases []Case
	for _, r := range reports {
		cases = append(cases, specCases(r, pkg)...)
	}
	return cases, nil
}

func specCases(r types.Report, pkg string) []Case {
	var cases []Case
	for _, s := range r.SpecReports {
		if c, ok := specCase(s, pkg); ok {
			cases = append(cases, c)
		}
	}
	if !r.SuiteSucceeded && Count(cases).Failed == 0 {
		cases = append(cases, Case{
			Package: pkg, Name: r.SuiteDescription, Outcome: Failed,
			Reason: strings.Join(append([]string{"the suite failed"}, r.SpecialSuiteFailureReasons...), ": "),
		})
	}
	return cases
}

// specCase counts one node of a report: each spec that was chosen, and a
// set-up or tear-down of the suite where it failed or was skipped.
func specCase(s types.SpecReport, pkg string) (Case, bool) {
	c := Case{Package: pkg, Name: specName(s), Reason: strings.TrimSpace(s.Failure.Message), Elapsed: s.RunTime}
	isSpec := s.LeafNodeType.Is(types.NodeTypeIt)
	switch {
	case s.State.Is(types.SpecStatePassed):
		c.Outcome = Passed
		return c, isSpec
	case s.State.Is(types.SpecStatePending):
		c.Outcome, c.Reason = Skipped, "pending"
		return c, isSpec
	case s.State.Is(types.SpecStateSkipped):
		c.Outcome = Skipped
		filteredOut := s.NumAttempts == 0 && c.Reason == ""
		if c.Reason == "" {
			c.Reason = "no reason given"
		}
		return c, !filteredOut
	}
	c.Outcome = Failed
	c.Reason = firstLine(c.Reason)
	c.Output = fmt.Sprintf("%s\n%s\n%s%s", s.Failure.Location, s.Failure.Message,
		s.CapturedGinkgoWriterOutput, s.CapturedStdOutErr)
	return c, true
}

func specName(s types.SpecReport) string {
	if name := s.FullText(); name != "" {
		return name
	}
	return s.LeafNodeType.String()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

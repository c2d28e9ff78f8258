package testsum

import (
	"encoding/xml"
	"fmt"
	"io"

	"github.com/onsi/ginkgo/v2/reporters"
)

// WriteJUnit writes the cases as JUnit XML, a test suite per package.
func WriteJUnit(w io.Writer, cases []Case) error {
	doc := reporters.JUnitTestSuites{}
	at := map[string]int{}
	for _, c := range cases {
		i, ok := at[c.Package]
		if !ok {
			i = len(doc.TestSuites)
			at[c.Package] = i
			doc.TestSuites = append(doc.TestSuites, reporters.JUnitTestSuite{Name: c.Package, Package: c.Package})
		}
		addJUnit(&doc.TestSuites[i], c)
	}
	for _, s := range doc.TestSuites {
		doc.Tests += s.Tests
		doc.Failures += s.Failures
		doc.Disabled += s.Skipped
		doc.Time += s.Time
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	return nil
}

func addJUnit(s *reporters.JUnitTestSuite, c Case) {
	tc := reporters.JUnitTestCase{Name: c.Name, Classname: c.Package, Time: c.Elapsed.Seconds()}
	switch c.Outcome {
	case Passed:
		tc.Status = "passed"
	case Failed:
		s.Failures++
		tc.Status = "failed"
		tc.Failure = &reporters.JUnitFailure{Message: c.Reason, Type: "failed", Description: c.Output}
	case Skipped:
		s.Skipped++
		tc.Status = "skipped"
		tc.Skipped = &reporters.JUnitSkipped{Message: c.Reason}
	}
	s.Tests++
	s.Time += tc.Time
	s.TestCases = append(s.TestCases, tc)
}

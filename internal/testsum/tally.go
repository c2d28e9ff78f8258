package testsum

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Outcome is how one test ended.
type Outcome int

// The outcomes of a test.
const (
	Passed Outcome = iota
	Failed
	Skipped
)

// Case is one test, subtest or spec that was counted.
type Case struct {
	// Package is the import path.
	Package string
	// Name is the test's name with its parents', or the full text of a spec.
	Name    string
	Outcome Outcome
	// Reason is why a test was skipped, or what a failure was in one line.
	Reason string
	// Output is what a failed test printed.
	Output  string
	Elapsed time.Duration
}

// Tally counts cases by outcome.
type Tally struct {
	Passed, Failed, Skipped int
}

// Count returns the tally of the cases.
func Count(cases []Case) Tally {
	var t Tally
	for _, c := range cases {
		switch c.Outcome {
		case Passed:
			t.Passed++
		case Failed:
			t.Failed++
		case Skipped:
			t.Skipped++
		}
	}
	return t
}

// String returns the closing line of a test target.
func (t Tally) String() string {
	return fmt.Sprintf("total: %d passed, %d failed, %d skipped", t.Passed, t.Failed, t.Skipped)
}

// OK reports whether tests ran and none failed. Skips alone have shown nothing.
func (t Tally) OK() bool {
	return t.Failed == 0 && t.Passed > 0
}

// WriteClosing writes the failures, the closing line, and each skip with its
// reason.
func WriteClosing(w io.Writer, cases []Case) error {
	t := Count(cases)
	var b strings.Builder
	for _, c := range cases {
		if c.Outcome == Failed {
			fmt.Fprintf(&b, "failed: %s %s%s\n", c.Package, c.Name, after(c.Reason))
		}
	}
	if t.Passed+t.Failed == 0 {
		b.WriteString("no test ran: that is a failure\n")
	}
	fmt.Fprintln(&b, t)
	for _, c := range cases {
		if c.Outcome == Skipped {
			fmt.Fprintf(&b, "skipped: %s %s%s\n", c.Package, c.Name, after(c.Reason))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write closing lines: %w", err)
	}
	return nil
}

func after(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

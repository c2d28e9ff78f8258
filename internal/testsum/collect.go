package testsum

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// packageCase is the name under which a package's own failure is counted, when
// no test of it failed: it did not build, or its process died.
const packageCase = "(package)"

// goTest is one test or subtest while its package runs.
type goTest struct {
	name    string
	action  string // the terminal action; empty while there is none
	elapsed time.Duration
	output  strings.Builder
}

// goPackage is what was heard of one package so far.
type goPackage struct {
	path   string
	tests  []*goTest
	byName map[string]*goTest
	output strings.Builder // of no test
	began  time.Time       // its first test; it may have waited for its turn before
}

// elapsed is how long the tests of the package took that ended with e: what go test says
// has its wait in it.
func (p *goPackage) elapsed(e event) time.Duration {
	if p.began.IsZero() || e.Time.IsZero() { // of no test, or go test ended first
		return 0
	}
	return e.Time.Sub(p.began)
}

func newGoPackage(path string) *goPackage {
	return &goPackage{path: path, byName: map[string]*goTest{}}
}

func (p *goPackage) test(name string) *goTest {
	t := p.byName[name]
	if t == nil {
		t = &goTest{name: name}
		p.byName[name] = t
		p.tests = append(p.tests, t)
	}
	return t
}

// cases counts the package, which ended with the given action; an empty one says
// that go test itself ended first.
func (p *goPackage) cases(action, buildOutput string) []Case {
	var cases []Case
	for _, t := range p.tests {
		if p.counts(t) {
			cases = append(cases, p.caseOf(t))
		}
	}
	if action == actionPass || action == actionSkip || Count(cases).Failed > 0 {
		return cases
	}
	reason := "the package failed, and none of its tests did"
	if action == "" {
		reason = "ended without a result"
	}
	if buildOutput != "" {
		reason = "does not build"
	}
	return append(cases, Case{
		Package: p.path, Name: packageCase, Outcome: Failed,
		Reason: reason, Output: buildOutput + p.output.String(),
	})
}

// counts reports whether t is counted: leaves are, and so is a parent that says
// something of its own: a skip, or a failure that none of its subtests explains.
func (p *goPackage) counts(t *goTest) bool {
	leaf, failedBelow := true, false
	for _, u := range p.tests {
		if strings.HasPrefix(u.name, t.name+"/") {
			leaf = false
			failedBelow = failedBelow || u.outcome() == Failed
		}
	}
	switch t.outcome() {
	case Failed:
		return !failedBelow
	case Skipped:
		return true
	}
	return leaf
}

func (p *goPackage) caseOf(t *goTest) Case {
	c := Case{Package: p.path, Name: t.name, Outcome: t.outcome(), Elapsed: t.elapsed}
	switch c.Outcome {
	case Skipped:
		c.Reason = lastMessage(t.output.String())
		if c.Reason == "" {
			c.Reason = "no reason given"
		}
	case Failed:
		if t.action == "" {
			c.Reason = "ended without a result"
		}
		c.Output = p.outputOf(t)
	}
	return c
}

// outputOf returns what the test and its parents printed, the parents first.
func (p *goPackage) outputOf(t *goTest) string {
	var b strings.Builder
	for i, r := range t.name {
		if r == '/' {
			if parent := p.byName[t.name[:i]]; parent != nil {
				b.WriteString(parent.output.String())
			}
		}
	}
	b.WriteString(t.output.String())
	return b.String()
}

func (t *goTest) outcome() Outcome {
	switch t.action {
	case actionPass:
		return Passed
	case actionSkip:
		return Skipped
	}
	return Failed
}

// messageLine is the form in which package testing prints t.Log and t.Skip.
var messageLine = regexp.MustCompile(`^\s+[^\s:]+\.go:\d+: (.*)$`)

// lastMessage returns the last message a test logged, its lines joined: where a
// test was skipped, that is the reason.
func lastMessage(output string) string {
	var message []string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if m := messageLine.FindStringSubmatch(line); m != nil {
			message = []string{m[1]}
		} else if len(message) > 0 && strings.HasPrefix(line, "        ") {
			message = append(message, strings.TrimSpace(line))
		}
	}
	return strings.Join(message, " ")
}

// summaryLine is what a package's end looks like to the reader.
func summaryLine(path string, cases []Case, elapsed time.Duration) string {
	t, word := Count(cases), "ok  "
	if t.Failed > 0 {
		word = "FAIL"
	}
	return fmt.Sprintf("%s %s (%d passed, %d failed, %d skipped) %.1fs\n",
		word, path, t.Passed, t.Failed, t.Skipped, elapsed.Seconds())
}

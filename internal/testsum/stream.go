package testsum

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
)

// suiteFunc counts the specs of a package that is a Ginkgo suite; nil for a
// package that is none. ran says whether the suite was started.
type suiteFunc func(ran bool) ([]Case, error)

// stream turns the events of one `go test -json` into cases, and tells the
// reader about each package when it ends.
type stream struct {
	progress io.Writer
	suites   map[string]suiteFunc // by import path
	packages map[string]*goPackage
	builds   map[string]*strings.Builder
	cases    []Case
}

func newStream(progress io.Writer, suites map[string]suiteFunc) *stream {
	return &stream{
		progress: progress,
		suites:   suites,
		packages: map[string]*goPackage{},
		builds:   map[string]*strings.Builder{},
	}
}

// read consumes the output of go test until its end. A line that is no event is
// shown as it is.
func (s *stream) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			e, badLine := parseEvent(line)
			if badLine != nil {
				s.show(string(line))
			} else {
				s.add(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test: %w", err)
		}
	}
}

func (s *stream) add(e event) {
	if e.Action == actionBuildOutput {
		s.build(e.ImportPath).WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := s.packages[e.Package]
	if p == nil {
		p = newGoPackage(e.Package)
		s.packages[e.Package] = p
	}
	switch e.Action {
	case actionRun:
		if p.began.IsZero() {
			p.began = e.Time
		}
		p.test(e.Test)
	case actionOutput:
		s.addOutput(p, e)
	case actionPass, actionFail, actionSkip:
		if e.Test == "" {
			s.endPackage(p, e)
			return
		}
		t := p.test(e.Test)
		t.action, t.elapsed = e.Action, e.elapsed()
	}
}

func (s *stream) addOutput(p *goPackage, e event) {
	if e.Test == "" {
		p.output.WriteString(e.Output)
		return
	}
	p.test(e.Test).output.WriteString(e.Output)
	if s.suites[p.path] != nil {
		s.show(e.Output) // a suite is long; its output is its progress
	}
}

func (s *stream) endPackage(p *goPackage, e event) {
	delete(s.packages, p.path)
	var built string
	if e.FailedBuild != "" {
		built = s.build(e.FailedBuild).String()
	}
	cases := p.cases(e.Action, built)
	if suite := s.suites[p.path]; suite != nil {
		cases = p.withSpecs(cases, suite)
	}
	s.cases = append(s.cases, cases...)
	if e.Action == actionSkip && len(cases) == 0 {
		return // a package without tests
	}
	s.show(summaryLine(p.path, cases, p.elapsed(e)))
	for _, c := range cases {
		if c.Outcome == Failed {
			s.show(fmt.Sprintf("--- %s %s%s\n%s", c.Package, c.Name, after(c.Reason), c.Output))
		}
	}
}

// finish ends the packages that go test left open: it died, or was stopped.
func (s *stream) finish() {
	for _, p := range s.packages {
		s.endPackage(p, event{})
	}
}

func (s *stream) build(path string) *strings.Builder {
	b := s.builds[path]
	if b == nil {
		b = new(strings.Builder)
		s.builds[path] = b
	}
	return b
}

// show is for the reader alone: a terminal that went away fails no test.
func (s *stream) show(text string) {
	_, _ = io.WriteString(s.progress, text)
}

package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ShownProblems is how many problems Error prints; the rest is counted.
const ShownProblems = 50

// Problem is one thing in a file that is not right.
type Problem struct {
	// File is the name of the file.
	File string
	// Line and Column count from 1. Both are zero for a problem that has no
	// place in a text.
	Line, Column int
	// Text says what is wrong and why, in one sentence.
	Text string
}

// String returns "file:line:column: text".
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		b.WriteString(strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column) + ":")
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	return b.String() + p.Text
}

// Error is returned for a file that was read and is not right.
type Error struct {
	// Problems are in the order of their places; never empty.
	Problems []Problem
}

// Error prints the problems one a line, the first 50 of them.
func (e *Error) Error() string {
	var lines []string
	for i, p := range e.Problems {
		if i == ShownProblems {
			lines = append(lines, fmt.Sprintf("and %d more problems", len(e.Problems)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// Position is a place in a text, counted from 1. The zero value is no place.
type Position struct{ Line, Column int }

// Problems collects what is wrong with one file.
type Problems struct {
	File string
	List []Problem
}

// Add notes a problem at a place.
func (ps *Problems) Add(at Position, format string, args ...any) {
	ps.List = append(ps.List, Problem{
		File: ps.File, Line: at.Line, Column: at.Column, Text: fmt.Sprintf(format, args...),
	})
}

// Sort puts the problems in the order of their places.
func (ps *Problems) Sort() {
	slices.SortStableFunc(ps.List, func(x, y Problem) int {
		return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
	})
}

// Err returns what was collected, nil when that is nothing.
func (ps *Problems) Err() error {
	if len(ps.List) == 0 {
		return nil
	}
	return &Error{Problems: ps.List}
}

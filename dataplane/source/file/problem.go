package file

import (
	"fmt"
	"strconv"
	"strings"
)

// shownProblems is how many problems Error prints; the rest is counted.
const shownProblems = 50

// Problem is one thing in a file that is not right.
type Problem struct {
	// File is the name that was given to Parse or Load.
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
		if i == shownProblems {
			lines = append(lines, fmt.Sprintf("and %d more problems", len(e.Problems)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// position is a place in a text, counted from 1. The zero value is no place.
type position struct{ line, column int }

// problems collects what is wrong with one file.
type problems struct {
	file string
	list []Problem
}

func (ps *problems) add(at position, format string, args ...any) {
	ps.list = append(ps.list, Problem{
		File: ps.file, Line: at.line, Column: at.column, Text: fmt.Sprintf(format, args...),
	})
}

// err returns what was collected, nil when that is nothing.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	return &Error{Problems: ps.list}
}

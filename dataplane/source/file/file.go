package file

import (
	"context"
	"fmt"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// MaxBytes is the size of the largest file that is read: room for some
// hundred thousand endpoints.
const MaxBytes = strictyaml.MaxBytes

// Load reads the file at path. An error is an *Error when the file was read
// and its content is not right. The Snapshot shares nothing with an earlier one.
func Load(path string) (intent.Snapshot, error) {
	data, err := read(path)
	if err != nil {
		return intent.Snapshot{}, err
	}
	return Parse(path, data)
}

func read(path string) ([]byte, error) {
	data, err := strictyaml.Read(context.Background(), path)
	if err != nil {
		return nil, fmt.Errorf("read intent: %w", err)
	}
	return data, nil
}

// Parse reads data; name is the file's name in messages. The error is an
// *Error. A Snapshot that is returned passes Validate.
func Parse(name string, data []byte) (intent.Snapshot, error) {
	r := &reader{problems{File: name}}
	root := r.Root(data)
	if root == nil {
		if len(r.List) == 0 {
			r.Add(position{Line: 1, Column: 1}, "version is missing, the file is empty")
		}
		return intent.Snapshot{}, r.Err()
	}
	d := r.document(root)
	if d.Version == 0 {
		return intent.Snapshot{}, r.Err()
	}
	b := &builder{problems: r.problems}
	s := b.snapshot(d)
	if len(b.List) == 0 {
		if err := s.Validate(); err != nil {
			b.Add(position{Line: 1, Column: 1}, "%s", err)
		}
	}
	b.Sort()
	if err := b.Err(); err != nil {
		return intent.Snapshot{}, err
	}
	return s, nil
}

// The words of strictyaml, which this package's own form is read by.
type (
	// Problem is one thing in a file that is not right.
	Problem = strictyaml.Problem
	// Error is returned for a file that was read and is not right.
	Error    = strictyaml.Error
	problems = strictyaml.Problems
	position = strictyaml.Position
)

package file

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// MaxBytes is the size of the largest file that is read: room for some
// hundred thousand endpoints.
const MaxBytes = 64 << 20

// maxDepth is how deep values may be nested. The form needs less than ten;
// the parser's time grows with the square of it.
const maxDepth = 32

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
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read intent: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read intent: %w", err)
	}
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("read intent: %s is larger than %d bytes", path, MaxBytes)
	}
	return data, nil
}

// Parse reads data; name is the file's name in messages. The error is an
// *Error. A Snapshot that is returned passes Validate.
func Parse(name string, data []byte) (intent.Snapshot, error) {
	r := &reader{problems{file: name}}
	root := r.root(data)
	if root == nil {
		return intent.Snapshot{}, r.err()
	}
	d := r.document(root)
	if d.Version == 0 {
		return intent.Snapshot{}, r.err()
	}
	b := &builder{problems: r.problems}
	s := b.snapshot(d)
	if len(b.list) == 0 {
		if err := s.Validate(); err != nil {
			b.add(position{1, 1}, "%s", err)
		}
	}
	slices.SortStableFunc(b.list, func(x, y Problem) int {
		return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
	})
	if err := b.err(); err != nil {
		return intent.Snapshot{}, err
	}
	return s, nil
}

// root parses the YAML text to its one document, or adds a problem and
// returns nil.
func (r *reader) root(data []byte) ast.Node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := notUTF8(data); at != (position{}) {
		r.add(at, "the file is not UTF-8 text")
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if at := tooDeep(tokens); at != (position{}) {
		r.add(at, "values are nested deeper than %d levels", maxDepth)
		return nil
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.syntax(err)
		return nil
	}
	return r.only(f.Docs)
}

// syntax adds the parser's complaint at its place.
func (r *reader) syntax(err error) {
	at, text := position{1, 1}, err.Error()
	var e yaml.Error
	if errors.As(err, &e) {
		text = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			at = position{t.Position.Line, t.Position.Column}
		}
	}
	r.add(at, "not YAML: %s", text)
}

// only returns the body of the single document of a file.
func (r *reader) only(docs []*ast.DocumentNode) ast.Node {
	var root ast.Node
	for _, d := range docs {
		switch {
		case d.Body == nil:
		case d.Body.Type() == ast.DirectiveType:
			r.add(where(d.Body), "directives are not part of this form")
			return nil
		case root != nil:
			r.add(where(d.Body), "a second document begins, a file holds one")
			return nil
		default:
			root = d.Body
		}
	}
	if root == nil {
		r.add(position{1, 1}, "version is missing, the file is empty")
	}
	return root
}

// notUTF8 returns the place of the first byte that is not UTF-8; the column
// counts characters.
func notUTF8(data []byte) position {
	if utf8.Valid(data) {
		return position{}
	}
	at := position{1, 1}
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		if c == utf8.RuneError && size == 1 {
			break
		}
		if at.column++; c == '\n' {
			at = position{at.line + 1, 1}
		}
		data = data[size:]
	}
	return at
}

// tooDeep returns the place where brackets, or the marks "-" and "?" on one
// line, are nested deeper than maxDepth. Nesting by indentation needs a file
// whose size grows with the square of the depth, and is left to MaxBytes.
func tooDeep(tokens token.Tokens) position {
	brackets, marks, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			marks, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType:
			marks++
		}
		if brackets > maxDepth || marks > maxDepth {
			return position{t.Position.Line, t.Position.Column}
		}
	}
	return position{}
}

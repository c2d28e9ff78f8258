package strictyaml

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth is how deep values may be nested. The forms need less than ten;
// the parser's time grows with the square of it.
const maxDepth = 32

// Root parses the YAML text to its one document. It adds a problem and returns nil
// where it cannot; nil alone where there is nothing in the text.
func (ps *Problems) Root(data []byte) ast.Node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at := notUTF8(data); at != (Position{}) {
		ps.Add(at, "the file is not UTF-8 text")
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if at := tooDeep(tokens); at != (Position{}) {
		ps.Add(at, "values are nested deeper than %d levels", maxDepth)
		return nil
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		ps.syntax(err)
		return nil
	}
	return ps.only(f.Docs)
}

// syntax adds the parser's complaint at its place.
func (ps *Problems) syntax(err error) {
	at, text := Position{1, 1}, err.Error()
	var e yaml.Error
	if errors.As(err, &e) {
		text = e.GetMessage()
		if t := e.GetToken(); t != nil && t.Position != nil {
			at = Position{t.Position.Line, t.Position.Column}
		}
	}
	ps.Add(at, "not YAML: %s", text)
}

// only returns the body of the single document of a file, nil where there is none.
func (ps *Problems) only(docs []*ast.DocumentNode) ast.Node {
	var root ast.Node
	for _, d := range docs {
		switch {
		case d.Body == nil:
		case d.Body.Type() == ast.DirectiveType:
			ps.Add(Where(d.Body), "directives are not part of this form")
			return nil
		case root != nil:
			ps.Add(Where(d.Body), "a second document begins, a file holds one")
			return nil
		default:
			root = d.Body
		}
	}
	return root
}

// notUTF8 returns the place of the first byte that is not UTF-8; the column
// counts characters.
func notUTF8(data []byte) Position {
	if utf8.Valid(data) {
		return Position{}
	}
	at := Position{1, 1}
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		if c == utf8.RuneError && size == 1 {
			break
		}
		if at.Column++; c == '\n' {
			at = Position{at.Line + 1, 1}
		}
		data = data[size:]
	}
	return at
}

// tooDeep returns the place where brackets, or the marks "-" and "?" on one
// line, are nested deeper than maxDepth. Nesting by indentation needs a file
// whose size grows with the square of the depth, and is left to MaxBytes.
func tooDeep(tokens token.Tokens) Position {
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
			return Position{t.Position.Line, t.Position.Column}
		}
	}
	return Position{}
}

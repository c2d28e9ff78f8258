package file

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/duomesh/duomesh/internal/strictyaml"
)

// reader turns the nodes of a YAML text into values and collects what is
// wrong with them.
type reader struct{ problems }

// field reads the value of one key of a mapping.
type field struct {
	read   func(path string, n ast.Node)
	needed bool
}

// fields are the keys that a mapping may have.
type fields map[string]field

// required makes a key one that must be given.
func (f field) required() field {
	f.needed = true
	return f
}

// mapping reads n by the keys in f. Unknown, repeated and missing keys are
// problems. It reports whether there was none in all of n.
func (r *reader) mapping(path string, n ast.Node, f fields) bool {
	before := len(r.List)
	values, ok := r.Entries(path, n)
	if !ok {
		return false
	}
	seen := make(map[string]position, len(values))
	for _, v := range values {
		key, at := v.Key.GetToken().Value, strictyaml.Where(v.Key)
		fd, known := f[key]
		first, twice := seen[key]
		switch {
		case !known:
			r.Add(at, "%s is not a key of this form, the keys here are %s", strictyaml.Join(path, strictyaml.Shorten(key)), names(f))
		case twice:
			r.Add(at, "%s is given twice, first in line %d", strictyaml.Join(path, key), first.Line)
		default:
			seen[key] = at
			fd.read(strictyaml.Join(path, key), v.Value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if _, given := seen[key]; f[key].needed && !given {
			r.Add(strictyaml.Where(n), "%s is missing", strictyaml.Join(path, key))
		}
	}
	return len(r.List) == before
}

// list reads the items of a sequence.
func list[T any](r *reader, dst *[]T, item func(path string, n ast.Node) T) field {
	return field{read: func(path string, n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			r.Wrong(path, n, "a list")
			return
		}
		for i, v := range seq.Values {
			*dst = append(*dst, item(path+"["+strconv.Itoa(i)+"]", v))
		}
	}}
}

// text reads any text without control characters.
func (r *reader) text(dst *string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.Text(path, n) }}
}

// name reads text that may not be empty.
func (r *reader) name(dst *string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.nameOf(path, n) }}
}

func (r *reader) nameOf(path string, n ast.Node) string {
	before := len(r.List)
	s := r.Text(path, n)
	if s == "" && len(r.List) == before {
		r.Add(strictyaml.Where(n), "%s must not be empty", path)
	}
	return s
}

// reference reads a name and keeps its place.
func (r *reader) reference(dst *string, at *position) field {
	name := r.name(dst)
	return field{read: func(path string, n ast.Node) {
		*at = strictyaml.Where(n)
		name.read(path, n)
	}}
}

// boolean reads true or false.
func (r *reader) boolean(dst *bool) field {
	return field{read: func(path string, n ast.Node) { *dst = r.Bool(path, n) }}
}

// oneOf reads one of a few words.
func (r *reader) oneOf(dst *string, words ...string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.wordOf(path, n, words) }}
}

func (r *reader) wordOf(path string, n ast.Node, words []string) string {
	s, ok := n.(*ast.StringNode)
	if !ok || !slices.Contains(words, s.Value) {
		r.Wrong(path, n, "one of "+strings.Join(words, ", "))
		return ""
	}
	return s.Value
}

// portNumber reads a port that is not zero, in host byte order.
func (r *reader) portNumber(dst *uint16) field {
	return field{read: func(path string, n ast.Node) {
		v, _ := r.Number(path, n, 1, 65535)
		*dst = uint16(v)
	}}
}

func names(f fields) string {
	return strings.Join(slices.Sorted(maps.Keys(f)), ", ")
}

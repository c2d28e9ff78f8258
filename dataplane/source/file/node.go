package file

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
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
	before := len(r.list)
	values, ok := r.entries(path, n)
	if !ok {
		return false
	}
	seen := make(map[string]position, len(values))
	for _, v := range values {
		key, at := v.Key.GetToken().Value, where(v.Key)
		fd, known := f[key]
		first, twice := seen[key]
		switch {
		case !known:
			r.add(at, "%s is not a key of this form, the keys here are %s", join(path, shorten(key)), names(f))
		case twice:
			r.add(at, "%s is given twice, first in line %d", join(path, key), first.line)
		default:
			seen[key] = at
			fd.read(join(path, key), v.Value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f)) {
		if _, given := seen[key]; f[key].needed && !given {
			r.add(where(n), "%s is missing", join(path, key))
		}
	}
	return len(r.list) == before
}

// entries returns the key-value pairs of a mapping whose keys are plain.
func (r *reader) entries(path string, n ast.Node) ([]*ast.MappingValueNode, bool) {
	var values []*ast.MappingValueNode
	switch x := n.(type) {
	case *ast.MappingNode:
		values = x.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{x}
	default:
		r.wrong(path, n, "a mapping")
		return nil, false
	}
	ok := true
	for _, v := range values {
		switch v.Key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode, *ast.MergeKeyNode:
		default:
			r.add(where(v.Key), "%s must have plain words as keys", cmp.Or(path, "the file"))
			ok = false
		}
	}
	return values, ok
}

// list reads the items of a sequence.
func list[T any](r *reader, dst *[]T, item func(path string, n ast.Node) T) field {
	return field{read: func(path string, n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			r.wrong(path, n, "a list")
			return
		}
		for i, v := range seq.Values {
			*dst = append(*dst, item(path+"["+strconv.Itoa(i)+"]", v))
		}
	}}
}

// text reads any text without control characters.
func (r *reader) text(dst *string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.textOf(path, n) }}
}

// name reads text that may not be empty.
func (r *reader) name(dst *string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.nameOf(path, n) }}
}

func (r *reader) nameOf(path string, n ast.Node) string {
	before := len(r.list)
	s := r.textOf(path, n)
	if s == "" && len(r.list) == before {
		r.add(where(n), "%s must not be empty", path)
	}
	return s
}

// reference reads a name and keeps its place.
func (r *reader) reference(dst *string, at *position) field {
	name := r.name(dst)
	return field{read: func(path string, n ast.Node) {
		*at = where(n)
		name.read(path, n)
	}}
}

func (r *reader) textOf(path string, n ast.Node) string {
	var s string
	switch x := n.(type) {
	case *ast.StringNode:
		s = x.Value
	case *ast.LiteralNode:
		s = x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		r.add(where(n), "%s must be text, it is %s (write it in quotes)", path, describe(n))
		return ""
	default:
		r.wrong(path, n, "text")
		return ""
	}
	if !printable(s) {
		r.add(where(n), "%s must not have control characters", path)
		return ""
	}
	return s
}

// printable reports whether s is UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool {
		return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || c == '\ufeff'
	})
}

// boolean reads true or false.
func (r *reader) boolean(dst *bool) field {
	return field{read: func(path string, n ast.Node) {
		b, ok := n.(*ast.BoolNode)
		if !ok {
			r.wrong(path, n, "true or false")
			return
		}
		*dst = b.Value
	}}
}

// oneOf reads one of a few words.
func (r *reader) oneOf(dst *string, words ...string) field {
	return field{read: func(path string, n ast.Node) { *dst = r.wordOf(path, n, words) }}
}

func (r *reader) wordOf(path string, n ast.Node, words []string) string {
	s, ok := n.(*ast.StringNode)
	if !ok || !slices.Contains(words, s.Value) {
		r.wrong(path, n, "one of "+strings.Join(words, ", "))
		return ""
	}
	return s.Value
}

// portNumber reads a port that is not zero, in host byte order.
func (r *reader) portNumber(dst *uint16) field {
	return field{read: func(path string, n ast.Node) {
		v, _ := r.number(path, n, 1, 65535)
		*dst = uint16(v)
	}}
}

// number reads a decimal number. A leading zero is refused: YAML's versions
// do not agree on whether 010 is eight or ten.
func (r *reader) number(path string, n ast.Node, low, high uint64) (uint64, bool) {
	if v, ok := decimal(n); ok && v >= low && v <= high {
		return v, true
	}
	r.wrong(path, n, "a decimal number from "+strconv.FormatUint(low, 10)+" to "+strconv.FormatUint(high, 10))
	return 0, false
}

func decimal(n ast.Node) (uint64, bool) {
	if _, ok := n.(*ast.IntegerNode); !ok {
		return 0, false
	}
	digits := n.GetToken().Value
	v, err := strconv.ParseUint(digits, 10, 64)
	return v, err == nil && (digits == "0" || digits[0] != '0')
}

// wrong says that the value at path is not what it must be.
func (r *reader) wrong(path string, n ast.Node, want string) {
	r.add(where(n), "%s must be %s, it is %s", cmp.Or(path, "the file"), want, describe(n))
}

// describe names a value for a message.
func describe(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return strconv.Quote(shorten(x.Value))
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode:
		return "an anchor, which this form does not have"
	case *ast.AliasNode:
		return "an alias, which this form does not have"
	case *ast.TagNode:
		return "a tagged value, which this form does not have"
	}
	return shorten(n.GetToken().Value)
}

// where returns the place of a node: of a block mapping its first key.
func where(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		n = m.Key
	}
	at := n.GetToken().Position
	return position{at.Line, at.Column}
}

// shorten cuts a long text for a message.
func shorten(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

func names(f fields) string {
	return strings.Join(slices.Sorted(maps.Keys(f)), ", ")
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

package strictyaml

import (
	"cmp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
)

// Entries returns the key-value pairs of a mapping whose keys are plain.
func (ps *Problems) Entries(path string, n ast.Node) ([]*ast.MappingValueNode, bool) {
	var values []*ast.MappingValueNode
	switch x := n.(type) {
	case *ast.MappingNode:
		values = x.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{x}
	default:
		ps.Wrong(path, n, "a mapping")
		return nil, false
	}
	ok := true
	for _, v := range values {
		switch v.Key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode, *ast.MergeKeyNode:
		default:
			ps.Add(Where(v.Key), "%s must have plain words as keys", cmp.Or(path, "the file"))
			ok = false
		}
	}
	return values, ok
}

// Text reads any text without control characters.
func (ps *Problems) Text(path string, n ast.Node) string {
	var s string
	switch x := n.(type) {
	case *ast.StringNode:
		s = x.Value
	case *ast.LiteralNode:
		s = x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		ps.Add(Where(n), "%s must be text, it is %s (write it in quotes)", path, Describe(n))
		return ""
	default:
		ps.Wrong(path, n, "text")
		return ""
	}
	if !Printable(s) {
		ps.Add(Where(n), "%s must not have control characters", path)
		return ""
	}
	return s
}

// Printable reports whether s is UTF-8 without control characters.
func Printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool {
		return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || c == '\ufeff'
	})
}

// Number reads a decimal number. A leading zero is refused: YAML's versions
// do not agree on whether 010 is eight or ten.
func (ps *Problems) Number(path string, n ast.Node, low, high uint64) (uint64, bool) {
	if v, ok := Decimal(n); ok && v >= low && v <= high {
		return v, true
	}
	ps.Wrong(path, n, "a decimal number from "+strconv.FormatUint(low, 10)+" to "+strconv.FormatUint(high, 10))
	return 0, false
}

// Decimal reads a number of digits alone, without a leading zero.
func Decimal(n ast.Node) (uint64, bool) {
	if _, ok := n.(*ast.IntegerNode); !ok {
		return 0, false
	}
	digits := n.GetToken().Value
	v, err := strconv.ParseUint(digits, 10, 64)
	return v, err == nil && (digits == "0" || digits[0] != '0')
}

// Wrong says that the value at path is not what it must be.
func (ps *Problems) Wrong(path string, n ast.Node, want string) {
	ps.Add(Where(n), "%s must be %s, it is %s", cmp.Or(path, "the file"), want, Describe(n))
}

// Describe names a value for a message.
func Describe(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return strconv.Quote(Shorten(x.Value))
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
	return Shorten(n.GetToken().Value)
}

// Where returns the place of a node: of a block mapping its first key.
func Where(n ast.Node) Position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		n = m.Key
	}
	at := n.GetToken().Position
	return Position{at.Line, at.Column}
}

// Shorten cuts a long text for a message.
func Shorten(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// Join is the path of a key.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

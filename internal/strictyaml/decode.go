package strictyaml

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Document is a text that was decoded, and where its values stand.
type Document struct {
	Problems
	places map[string]Position
}

// Decode fills dst, a pointer to a struct, from a YAML text. The keys are the names of
// the fields in lower case, or what their tag "yaml" says; "-" is no key. What is not
// right is among the Problems of the document, all of it: dst is then to be thrown away.
func Decode(name string, data []byte, dst any) *Document {
	d := &Document{Problems: Problems{File: name}, places: map[string]Position{}}
	root := d.Root(data)
	switch {
	case root != nil:
		d.value("", root, reflect.ValueOf(dst).Elem())
	case len(d.List) == 0:
		d.Add(Position{1, 1}, "the file is empty")
	}
	return d
}

// Has reports whether a key stands in the text, known or not.
func (d *Document) Has(path string) bool {
	_, there := d.places[path]
	return there
}

// Place is where the value at path stands, for example "nodes[0].name"; of one that is
// not there the place of what would hold it.
func (d *Document) Place(path string) Position {
	for {
		if at, there := d.places[path]; there {
			return at
		}
		if path == "" {
			return Position{1, 1}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

func (d *Document) value(path string, n ast.Node, v reflect.Value) {
	d.places[path] = Where(n)
	if v.Type() == reflect.TypeFor[time.Duration]() {
		v.SetInt(int64(d.Duration(path, n)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	case reflect.Struct:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.list(path, n, v)
	case reflect.Map:
		d.table(path, n, v)
	case reflect.String:
		v.SetString(d.Text(path, n))
	case reflect.Bool:
		v.SetBool(d.Bool(path, n))
	case reflect.Int:
		x, _ := d.Number(path, n, 0, math.MaxInt32)
		v.SetInt(int64(x))
	case reflect.Uint16, reflect.Uint32:
		x, _ := d.Number(path, n, 0, 1<<v.Type().Bits()-1)
		v.SetUint(x)
	case reflect.Float64:
		v.SetFloat(d.fraction(path, n))
	default:
		panic(fmt.Sprintf("strictyaml: %s: a form has no %s", path, v.Type())) // a mistake in the form
	}
}

// Defaults is a struct of a form in which what is not given is not Go's zero value.
type Defaults interface {
	// SetDefaults is called before the values that are given are set.
	SetDefaults()
}

// mapping reads n by the fields of the struct v.
func (d *Document) mapping(path string, n ast.Node, v reflect.Value) {
	if v.CanAddr() {
		if form, ok := v.Addr().Interface().(Defaults); ok {
			form.SetDefaults()
		}
	}
	values, _ := d.Entries(path, n)
	fields := fieldsOf(v)
	seen := map[string]Position{}
	for _, e := range values {
		key, at := e.Key.GetToken().Value, Where(e.Key)
		field, known := fields[key]
		first, twice := seen[key]
		seen[key] = at
		switch {
		case !known:
			d.places[Join(path, key)] = at
			d.Add(at, "%s is not a key of this form, the keys here are %s",
				Join(path, Shorten(key)), strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case twice:
			d.Add(at, "%s is given twice, first in line %d", Join(path, key), first.Line)
		default:
			d.value(Join(path, key), e.Value, field)
		}
	}
}

func fieldsOf(v reflect.Value) map[string]reflect.Value {
	all := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if key := cmp.Or(f.Tag.Get("yaml"), strings.ToLower(f.Name)); key != "-" {
			all[key] = v.Field(i)
		}
	}
	return all
}

func (d *Document) list(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.Wrong(path, n, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.value(path+"["+strconv.Itoa(i)+"]", item, v.Index(i))
	}
}

// table reads a mapping whose keys are the user's.
func (d *Document) table(path string, n ast.Node, v reflect.Value) {
	values, _ := d.Entries(path, n)
	v.Set(reflect.MakeMap(v.Type()))
	seen := map[string]Position{}
	for _, e := range values {
		key := reflect.New(v.Type().Key()).Elem()
		if key.Kind() == reflect.String {
			key.SetString(e.Key.GetToken().Value)
		} else {
			before := len(d.List)
			if d.value("a key of "+path, e.Key, key); len(d.List) > before {
				continue
			}
		}
		at := Join(path, fmt.Sprint(key))
		if first, twice := seen[at]; twice {
			d.Add(Where(e.Key), "%s is given twice, first in line %d", at, first.Line)
			continue
		}
		seen[at] = Where(e.Key)
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(at, e.Value, value)
		v.SetMapIndex(key, value)
	}
}

// fraction reads a number such as 0.9 or 1.
func (d *Document) fraction(path string, n ast.Node) float64 {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		text := n.GetToken().Value
		whole, _, _ := strings.Cut(text, ".")
		x, err := strconv.ParseFloat(text, 64)
		if err == nil && !strings.ContainsFunc(text, func(c rune) bool { return c != '.' && (c < '0' || c > '9') }) &&
			(len(whole) < 2 || whole[0] != '0') {
			return x
		}
	}
	d.Wrong(path, n, "a decimal number such as 0.9")
	return 0
}

// Bool reads true or false.
func (ps *Problems) Bool(path string, n ast.Node) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		ps.Wrong(path, n, "true or false")
		return false
	}
	return b.Value
}

// Duration reads a time with its unit.
func (ps *Problems) Duration(path string, n ast.Node) time.Duration {
	if s, ok := n.(*ast.StringNode); ok {
		if d, err := time.ParseDuration(s.Value); err == nil && d >= 0 {
			return d
		}
	}
	ps.Wrong(path, n, "a time such as 250ms or 2s")
	return 0
}

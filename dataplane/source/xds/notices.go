package xds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// notices are what istiod asks for and nobody here does, by their text: the same
// is often said of many.
type notices map[string]*notice

// notice is one text and the names of those of whom it is said.
type notice struct {
	names map[string]struct{}
	line  string // written out, "" after a change
}

// set replaces what is said of a name.
func (n notices) set(name string, old, texts []string) {
	for _, text := range old {
		if slices.Contains(texts, text) {
			continue
		}
		if delete(n[text].names, name); len(n[text].names) == 0 {
			delete(n, text)
		} else {
			n[text].line = ""
		}
	}
	for _, text := range texts {
		if slices.Contains(old, text) {
			continue
		}
		if n[text] == nil {
			n[text] = &notice{names: map[string]struct{}{}}
		}
		n[text].names[name] = struct{}{}
		n[text].line = ""
	}
}

// lines writes a line for each text.
func (n notices) lines() []string {
	var all []string
	for text, notice := range n {
		if notice.line == "" {
			notice.line = some(notice.names) + ": " + text
		}
		all = append(all, notice.line)
	}
	slices.Sort(all)
	return all
}

// some writes the first names of many.
func some(names map[string]struct{}) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
	}
	var first []string // the smallest, in their order
	for name := range names {
		i, _ := slices.BinarySearch(first, name)
		if i < most {
			first = slices.Insert(first, i, name)
			first = first[:min(most, len(first))]
		}
	}
	return fmt.Sprintf("%s and %d more", strings.Join(first, ", "), len(names)-most)
}

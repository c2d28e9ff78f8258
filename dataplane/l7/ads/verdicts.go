package ads

import (
	"maps"
	"slices"
	"strings"
)

// Verdicts are what Envoy thinks of the resources of one type. They outlive a stream, and
// the Envoy that had it.
type Verdicts struct {
	taken   Set
	refused map[string]refusal
}

// refusal is Envoy's reason for not taking a version of a resource.
type refusal struct{ version, reason string }

// NewVerdicts knows of nothing.
func NewVerdicts() *Verdicts { return &Verdicts{taken: Set{}, refused: map[string]refusal{}} }

// note takes Envoy's answer to what was sent together. A refusal concerns what it names;
// all of it when it names nothing.
func (v *Verdicts) note(sent Set, reason string, refused bool) {
	for name, body := range sent {
		if refused && (names(reason, name) || !namesAny(reason, sent)) {
			v.refused[name] = refusal{body.Version, reason}
			continue
		}
		v.taken[name] = body
		if v.refused[name].version == body.Version {
			delete(v.refused, name)
		}
	}
}

func namesAny(reason string, sent Set) bool {
	for name := range sent {
		if names(reason, name) {
			return true
		}
	}
	return false
}

// names reports whether a name stands in a text, whole.
func names(text, name string) bool {
	for rest := text; ; {
		before, after, found := strings.Cut(rest, name)
		if !found {
			return false
		}
		if !strings.ContainsAny(last(before), partOfName) && !strings.ContainsAny(first(after), partOfName) {
			return true
		}
		rest = after
	}
}

// partOfName are what a name goes on with, beside what is between words.
const partOfName = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-|;./@"

func first(s string) string { return s[:min(1, len(s))] }
func last(s string) string  { return s[max(0, len(s)-1):] }

// instead is what an Envoy that has nothing of a resource is sent first: where it is known
// to be refused, the version that was taken before it.
func (v *Verdicts) instead(name string, body Body) Body {
	before, there := v.taken[name]
	if there && v.refused[name].version == body.Version {
		return before
	}
	return body
}

// refusal joins Envoy's reasons for not having what is in have, or where there is need,
// that of it. What is not there any more is forgotten.
func (v *Verdicts) refusal(have, need Set) string {
	var reasons []string
	for _, name := range slices.Sorted(maps.Keys(v.refused)) {
		r := v.refused[name]
		_, asked := need[name]
		switch body, there := have[name]; {
		case !there:
			delete(v.refused, name)
		case need != nil && !asked: // it is on its way out
		case body.Version == r.version && !slices.Contains(reasons, r.reason):
			reasons = append(reasons, r.reason)
		}
	}
	maps.DeleteFunc(v.taken, func(name string, _ Body) bool { _, there := have[name]; return !there })
	return strings.Join(reasons, "; ")
}

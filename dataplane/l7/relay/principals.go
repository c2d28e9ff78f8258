package relay

import (
	"bytes"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// groups are the sources of connections, by what the rules of a chain can tell of them:
// those between which no rule tells the difference are one group.
type groups struct {
	// of has the addresses of each group by its name, identity what the rules are shown
	// in its place.
	of       map[string][]netip.Addr
	identity map[string]string
}

// names are those of the groups, in order.
func (g groups) names() []string { return slices.Sorted(maps.Keys(g.of)) }

// grouped sorts sources by what rules make of their identities. chosen remembers who
// stands for a group, so that a source that comes or goes does not change what the rules
// of others are shown.
func grouped(rules []*matcher.StringMatcher, sources map[netip.Addr]string, chosen map[string]string) groups {
	g := groups{of: map[string][]netip.Addr{}, identity: map[string]string{}}
	names := map[string]string{} // by identity
	for _, identity := range slices.Sorted(maps.Values(sources)) {
		if names[identity] != "" {
			continue
		}
		name := "id" + vector(rules, identity)
		key := name + "\x00" + text(rules)
		if chosen[key] == "" {
			chosen[key] = identity
		}
		names[identity], g.identity[name] = name, chosen[key]
	}
	for a, identity := range sources {
		g.of[names[identity]] = append(g.of[names[identity]], a)
	}
	for _, all := range g.of {
		slices.SortFunc(all, netip.Addr.Compare)
	}
	return g
}

// vector writes which rules hold for an identity.
func vector(rules []*matcher.StringMatcher, identity string) string {
	out := ""
	for i, r := range rules {
		if holdsFor(r, identity) {
			out += "-" + strconv.Itoa(i)
		}
	}
	return out
}

func text(rules []*matcher.StringMatcher) string {
	var out []byte
	for _, r := range rules {
		// Of messages that were just unmarshalled: it does not fail.
		data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		out = append(append(out, data...), 0)
	}
	return string(out)
}

// holdsFor is Envoy's StringMatcher.
func holdsFor(r *matcher.StringMatcher, s string) bool {
	fold := func(pattern string) (string, string) {
		if r.IgnoreCase {
			return strings.ToLower(s), strings.ToLower(pattern)
		}
		return s, pattern
	}
	switch p := r.MatchPattern.(type) {
	case *matcher.StringMatcher_Exact:
		have, want := fold(p.Exact)
		return have == want
	case *matcher.StringMatcher_Prefix:
		have, want := fold(p.Prefix)
		return strings.HasPrefix(have, want)
	case *matcher.StringMatcher_Suffix:
		have, want := fold(p.Suffix)
		return strings.HasSuffix(have, want)
	case *matcher.StringMatcher_Contains:
		have, want := fold(p.Contains)
		return strings.Contains(have, want)
	case *matcher.StringMatcher_SafeRegex:
		whole, err := regexp.Compile("^(?:" + p.SafeRegex.Regex + ")$")
		return err == nil && whole.MatchString(s)
	}
	return false
}

// understood reports whether holdsFor says of a rule what Envoy does.
func understood(r *matcher.StringMatcher) bool {
	switch p := r.GetMatchPattern().(type) {
	case *matcher.StringMatcher_Exact, *matcher.StringMatcher_Prefix, *matcher.StringMatcher_Suffix, *matcher.StringMatcher_Contains:
		return true
	case *matcher.StringMatcher_SafeRegex:
		_, err := regexp.Compile("^(?:" + p.SafeRegex.Regex + ")$")
		return err == nil
	}
	return false
}

// principalRules collects what rules ask of the principal. ok is false when they ask it in
// a way that is not understood.
func principalRules(all ...proto.Message) (rules []*matcher.StringMatcher, ok bool) {
	for _, m := range all {
		if !m.ProtoReflect().IsValid() {
			continue
		}
		data, err := proto.Marshal(m)
		if err != nil {
			return nil, false
		}
		found := collect(m.ProtoReflect(), nil)
		if len(found) != bytes.Count(data, []byte(principal)) || !allUnderstood(found) {
			return nil, false
		}
		rules = append(rules, found...)
	}
	return rules, true
}

func allUnderstood(rules []*matcher.StringMatcher) bool {
	return !slices.ContainsFunc(rules, func(r *matcher.StringMatcher) bool { return !understood(r) })
}

// collect finds the matchers of the principal in a message, in the order of its fields.
func collect(m protoreflect.Message, found []*matcher.StringMatcher) []*matcher.StringMatcher {
	if f, is := m.Interface().(*matcher.FilterStateMatcher); is && f.Key == principal {
		return append(found, f.GetStringMatch())
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		switch v := m.Get(f); {
		case f.IsMap() && f.MapValue().Message() != nil:
			byKey := map[string]protoreflect.Message{}
			v.Map().Range(func(k protoreflect.MapKey, one protoreflect.Value) bool {
				byKey[k.String()] = one.Message()
				return true
			})
			for _, k := range slices.Sorted(maps.Keys(byKey)) {
				found = collect(byKey[k], found)
			}
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for j := range v.List().Len() {
				found = collect(v.List().Get(j).Message(), found)
			}
		default:
			found = collect(v.Message(), found)
		}
	}
	return found
}

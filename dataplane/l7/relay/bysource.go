package relay

import (
	"net/netip"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	inputs "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// variant is the name of a chain for one group of sources.
func variant(chain, group string) string { return chain + "@" + group }

// splitBySource lets the source's address choose among the variants of chains. One that
// is in no group stays with the chain itself, which refuses.
func splitBySource(m *xds.Matcher, split map[string]groups) error {
	if len(split) == 0 {
		return nil
	}
	return eachLeaf(m, func(on *xds.Matcher_OnMatch) error {
		name := new(wrapperspb.StringValue)
		if on.GetAction().GetTypedConfig().UnmarshalTo(name) != nil {
			return nil // it names no chain
		}
		g, there := split[name.Value]
		if !there {
			return nil
		}
		by, err := bySource(name.Value, g)
		if err != nil {
			return err
		}
		// What a tree says of a source that it does not know is what stood here.
		by.OnNoMatch = &xds.Matcher_OnMatch{OnMatch: on.OnMatch}
		on.OnMatch = &xds.Matcher_OnMatch_Matcher{Matcher: by}
		return nil
	})
}

// bySource chooses a chain's variant by the source's address: that of the packets, whatever
// a header in the stream says.
func bySource(chain string, g groups) (*xds.Matcher, error) {
	input, err := ads.Pack(&inputs.DirectSourceIPInput{})
	if err != nil {
		return nil, err
	}
	ranges := new(xds.IPMatcher)
	for _, group := range g.names() {
		action, err := ads.Pack(wrapperspb.String(variant(chain, group)))
		if err != nil {
			return nil, err
		}
		one := &xds.IPMatcher_IPRangeMatcher{OnMatch: &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Action{
			Action: &xdscore.TypedExtensionConfig{Name: variant(chain, group), TypedConfig: action},
		}}}
		for _, a := range g.of[group] {
			one.Ranges = append(one.Ranges, single(a))
		}
		ranges.RangeMatchers = append(ranges.RangeMatchers, one)
	}
	tree, err := ads.Pack(ranges)
	if err != nil {
		return nil, err
	}
	return &xds.Matcher{MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
		Input:    &xdscore.TypedExtensionConfig{Name: "source", TypedConfig: input},
		TreeType: &xds.Matcher_MatcherTree_CustomMatch{CustomMatch: &xdscore.TypedExtensionConfig{Name: "source", TypedConfig: tree}},
	}}}, nil
}

func single(a netip.Addr) *xdscore.CidrRange {
	return &xdscore.CidrRange{AddressPrefix: a.String(), PrefixLen: wrapperspb.UInt32(uint32(a.BitLen()))}
}

// eachLeaf calls f with everything that a matcher may come to and that is no matcher.
func eachLeaf(m *xds.Matcher, f func(*xds.Matcher_OnMatch) error) error {
	if m == nil {
		return nil
	}
	for _, on := range m.GetMatcherList().GetMatchers() {
		if err := leaf(on.GetOnMatch(), f); err != nil {
			return err
		}
	}
	tree := m.GetMatcherTree()
	for _, all := range []map[string]*xds.Matcher_OnMatch{tree.GetExactMatchMap().GetMap(), tree.GetPrefixMatchMap().GetMap()} {
		for _, on := range all {
			if err := leaf(on, f); err != nil {
				return err
			}
		}
	}
	if custom := tree.GetCustomMatch(); custom != nil && custom.TypedConfig.MessageIs((*xds.IPMatcher)(nil)) {
		ranges := new(xds.IPMatcher)
		if err := custom.TypedConfig.UnmarshalTo(ranges); err != nil {
			return err
		}
		for _, r := range ranges.RangeMatchers {
			if err := leaf(r.GetOnMatch(), f); err != nil {
				return err
			}
		}
		packed, err := ads.Pack(ranges)
		if err != nil {
			return err
		}
		custom.TypedConfig = packed
	}
	return leaf(m.OnNoMatch, f)
}

func leaf(on *xds.Matcher_OnMatch, f func(*xds.Matcher_OnMatch) error) error {
	switch {
	case on == nil:
		return nil
	case on.GetMatcher() != nil:
		return eachLeaf(on.GetMatcher(), f)
	}
	return f(on)
}

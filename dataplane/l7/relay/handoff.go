package relay

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	state "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcprbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpstate "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	inputs "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/render"
)

// needsIdentityName begins the counters of chains that refuse for want of a principal,
// and is the name of their cluster.
const needsIdentityName = "handoff_needs_identity"

// principal is the filter state in which rules find who the client is: HBONE puts it
// there, a hand-off cannot.
const principal = "io.istio.peer_principal"

const inspector = "envoy.filters.listener.http_inspector"

// handOff makes the copy of main_internal that takes handed-over connections: the same
// chains and the same way to them, on a port of its own.
func (w *work) handOff(of *listener.Listener) error {
	l := proto.Clone(of).(*listener.Listener)
	if w.Port != 0 {
		w.counts[handOffListener]++
	}
	if w.ProxyPort != 0 {
		w.counts[proxyListener]++
	}
	l.Name, l.StatPrefix, l.ListenerSpecifier, l.BindToPort = render.HandOffListener, render.HandOffListener, nil, nil
	at := func(a netip.Addr) *core.Address {
		return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
			Address: a.String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(w.Port)},
		}}}
	}
	l.Address = at(netip.IPv4Unspecified())
	l.AdditionalAddresses = []*listener.AdditionalAddress{{Address: at(netip.IPv6Unspecified())}}
	if err := w.plainly(l); err != nil {
		return err
	}
	split := map[string]groups{}
	var chains []*listener.FilterChain
	for _, c := range l.FilterChains {
		g, variants, err := w.handOffChain(c)
		if err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		if len(variants) > 0 {
			split[c.Name] = g
		}
		chains = append(append(chains, c), variants...)
	}
	l.FilterChains = chains
	if err := splitBySource(l.FilterChainMatcher, split); err != nil {
		return err
	}
	w.withoutInspector(l)
	if err := w.withoutOwnPort(l); err != nil {
		return err
	}
	w.view.HandOff = l
	return nil
}

// handOffs are the listeners that a copy of main_internal comes to.
func (p Ports) handOffs(l *listener.Listener) []*listener.Listener {
	var all []*listener.Listener
	if l != nil && p.Port != 0 {
		all = append(all, l)
	}
	if l != nil && p.ProxyPort != 0 {
		all = append(all, render.Proxied(l, p.ProxyPort))
	}
	return all
}

// handOffChain makes a chain one for connections that were handed over. Where its rules
// ask who the client is, that is what refuses, and there are variants of it for the
// sources whose identity is known by their addresses.
func (w *work) handOffChain(c *listener.FilterChain) (g groups, variants []*listener.FilterChain, err error) {
	rules, named, err := principalsOf(c)
	if err != nil {
		return groups{}, nil, err
	}
	if strings.HasPrefix(c.Name, directPrefix) {
		w.counts[localAddress]++
		if err := first(c, "handoff_local_address", localIP, "", "%DOWNSTREAM_LOCAL_ADDRESS%", state.FilterStateValue_ONCE); err != nil {
			return groups{}, nil, err
		}
	}
	if !named {
		return groups{}, nil, nil
	}
	if w.sources != nil && rules != nil {
		w.counts[byAddress]++
		g = grouped(rules, w.identities, w.chosen)
		for _, name := range g.names() {
			v := proto.Clone(c).(*listener.FilterChain)
			v.Name = variant(c.Name, name)
			if err := first(v, "handoff_identity", principal, hashable, escaped(g.identity[name]), state.FilterStateValue_NONE); err != nil {
				return groups{}, nil, err
			}
			variants = append(variants, v)
		}
	}
	return g, variants, w.refuse(c)
}

// refuse makes a chain end every connection, and count it.
func (w *work) refuse(c *listener.FilterChain) (err error) {
	w.counts[needsIdentity]++
	w.view.Refused = append(w.view.Refused, c.Name)
	c.Filters, err = filters("envoy.filters.network.tcp_proxy", &tcp.TcpProxy{
		StatPrefix: needsIdentityName + "." + c.Name, ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: needsIdentityName},
	})
	if err != nil {
		return err
	}
	return w.put(w.view.Clusters, needsIdentityName, refusing())
}

// localIP is the filter state from which chains for pods read the destination, hashable
// the factory of a principal's.
const (
	localIP  = "envoy.filters.listener.original_dst.local_ip"
	hashable = "envoy.hashable_string"
)

// escaped writes a text so that Envoy's formatter gives it back.
func escaped(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// first puts a filter before those of a chain, which sets a filter state for a connection.
func first(c *listener.FilterChain, name, key, factory, format string, shared state.FilterStateValue_SharedWithUpstream) error {
	f, err := filters(name, &tcpstate.Config{OnNewConnection: []*state.FilterStateValue{{
		Key: &state.FilterStateValue_ObjectKey{ObjectKey: key}, FactoryKey: factory, SharedWithUpstream: shared,
		Value: &state.FilterStateValue_FormatString{FormatString: &core.SubstitutionFormatString{
			Format: &core.SubstitutionFormatString_TextFormatSource{TextFormatSource: &core.DataSource{
				Specifier: &core.DataSource_InlineString{InlineString: format},
			}},
		}},
	}}})
	c.Filters = append(f, c.Filters...)
	return err
}

func filters(name string, m proto.Message) ([]*listener.Filter, error) {
	config, err := ads.Pack(m)
	if err != nil {
		return nil, err
	}
	return []*listener.Filter{{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: config}}}, nil
}

// principalsOf reports whether a rule of the chain asks who the client is, and what it
// asks; no rules where that is not understood.
func principalsOf(c *listener.FilterChain) (rules []*matcher.StringMatcher, named bool, err error) {
	all, err := rulesOf(c)
	if err != nil || !holds(all...) {
		return nil, false, err
	}
	if rules, ok := principalRules(all...); ok {
		return rules, true, nil
	}
	return nil, true, nil
}

// dryRun begins the names of what shadow rules for a dry run find: they refuse nobody. By
// other shadow rules istiod says whom an external authorizer is asked about (action
// CUSTOM): who is not asked about is served.
const dryRun = "istio_dry_run_"

// rulesOf are all rules that say who is served by a chain.
func rulesOf(c *listener.FilterChain) ([]proto.Message, error) {
	var all []proto.Message
	for _, f := range c.Filters {
		config := f.GetTypedConfig()
		switch {
		case config == nil:
		case config.MessageIs((*tcprbac.RBAC)(nil)):
			r := new(tcprbac.RBAC)
			if err := config.UnmarshalTo(r); err != nil {
				return nil, err
			}
			all = append(all, r.GetRules(), r.GetMatcher())
			if !strings.HasPrefix(r.ShadowRulesStatPrefix, dryRun) {
				all = append(all, r.GetShadowRules(), r.GetShadowMatcher())
			}
		case config.MessageIs((*hcm.HttpConnectionManager)(nil)):
			h := new(hcm.HttpConnectionManager)
			if err := config.UnmarshalTo(h); err != nil {
				return nil, err
			}
			more, err := httpRules(h)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
	}
	return all, nil
}

func httpRules(h *hcm.HttpConnectionManager) ([]proto.Message, error) {
	var all []proto.Message
	for _, f := range h.HttpFilters {
		config := f.GetTypedConfig()
		if config == nil || !config.MessageIs((*httprbac.RBAC)(nil)) {
			continue
		}
		r := new(httprbac.RBAC)
		if err := config.UnmarshalTo(r); err != nil {
			return nil, err
		}
		all = append(all, r.GetRules(), r.GetMatcher())
		if !strings.HasPrefix(r.ShadowRulesStatPrefix, dryRun) {
			all = append(all, r.GetShadowRules(), r.GetShadowMatcher())
		}
	}
	return all, nil
}

// holds looks for the principal in rules, in whatever place.
func holds(rules ...proto.Message) bool {
	return slices.ContainsFunc(rules, func(m proto.Message) bool {
		if !m.ProtoReflect().IsValid() {
			return false
		}
		data, err := proto.Marshal(m)
		return err != nil || bytes.Contains(data, []byte(principal))
	})
}

// withoutInspector leaves the HTTP inspector out where no chain is chosen by what it
// finds: its configuration names every service port, so one more would replace the
// listener and end its connections.
func (w *work) withoutInspector(l *listener.Listener) {
	data, err := proto.Marshal(l.FilterChainMatcher)
	if err != nil || bytes.Contains(data, []byte("ApplicationProtocolInput")) {
		return
	}
	before := len(l.ListenerFilters)
	l.ListenerFilters = slices.DeleteFunc(l.ListenerFilters, func(f *listener.ListenerFilter) bool { return f.Name == inspector })
	if len(l.ListenerFilters) < before {
		w.counts[noInspector]++
	}
}

// withoutOwnPort refuses connections to the hand-off port itself, where whatever is not
// a service would be passed on to the address that it was for.
func (w *work) withoutOwnPort(l *listener.Listener) error {
	if !slices.ContainsFunc(l.FilterChains, func(c *listener.FilterChain) bool { return strings.HasPrefix(c.Name, directPrefix) }) {
		return nil
	}
	w.counts[ownPort]++
	// No chain has the name: no chain matches, which Envoy refuses and counts.
	action, err := ads.Pack(wrapperspb.String("no_answer"))
	if err != nil {
		return err
	}
	port, err := ads.Pack(&inputs.DestinationPortInput{})
	if err != nil {
		return err
	}
	refused := map[string]*xds.Matcher_OnMatch{}
	for _, own := range []uint16{w.Port, w.ProxyPort} {
		if own != 0 {
			refused[strconv.Itoa(int(own))] = &xds.Matcher_OnMatch{
				OnMatch: &xds.Matcher_OnMatch_Action{Action: &xdscore.TypedExtensionConfig{Name: "no_answer", TypedConfig: action}},
			}
		}
	}
	l.FilterChainMatcher = &xds.Matcher{
		MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
			Input: &xdscore.TypedExtensionConfig{Name: "port", TypedConfig: port},
			TreeType: &xds.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xds.Matcher_MatcherTree_MatchMap{
				Map: refused,
			}},
		}},
		OnNoMatch: &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Matcher{Matcher: l.FilterChainMatcher}},
	}
	return nil
}

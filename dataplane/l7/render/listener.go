package render

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"

	matcher "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	original "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocol "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	inputs "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// chain is the filters for one kind of connection.
type chain struct {
	name   string
	filter *listener.Filter
}

// addressed is a destination: its ports' chains, or one for all ports.
type addressed struct {
	address netip.Addr
	ports   map[uint16]string
	always  string
}

// directChain passes a connection on to the address that it was for.
const directChain = "direct-tcp"

// finish renders what chains refer to, once every chain is known.
func (r *renderer) finish() error {
	if slices.ContainsFunc(r.ranges, func(a addressed) bool { return a.always == directChain }) {
		if err := r.put(ads.Clusters, directChain, passOn()); err != nil {
			return err
		}
		r.chains = append(r.chains, chain{directChain, filter("envoy.filters.network.tcp_proxy", &tcp.TcpProxy{
			StatPrefix: directChain, ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: directChain},
		})})
	}
	return r.clusters()
}

// State is the configuration as Envoy is given it.
func (r Rendered) State() (ads.State, error) {
	out := maps.Clone(r.out)
	out[ads.Listeners] = ads.Set{}
	if r.Empty() {
		return out, nil // a listener without a chain is none
	}
	for _, l := range r.handOffs() {
		body, err := ads.NewBody(l)
		if err != nil {
			return nil, err
		}
		out[ads.Listeners][l.Name] = body
	}
	for port, name := range r.expose {
		l, err := ads.NewBody(r.exposed(port, name))
		if err != nil {
			return nil, err
		}
		out[ads.Listeners][ExposedListener(port)] = l
	}
	return out, nil
}

// ExposedListener is the name of a listener that nothing is handed to.
func ExposedListener(port uint16) string { return "exposed_" + strconv.Itoa(int(port)) }

// exposed is a listener of its own with one chain for all connections.
func (r Rendered) exposed(port uint16, name string) *listener.Listener {
	i := slices.IndexFunc(r.chains, func(c chain) bool { return c.name == name })
	at := func(a netip.Addr) *core.Address { return socket(netip.AddrPortFrom(a, port)) }
	return &listener.Listener{
		Name: ExposedListener(port), Address: at(netip.IPv4Unspecified()),
		AdditionalAddresses: []*listener.AdditionalAddress{{Address: at(netip.IPv6Unspecified())}},
		FilterChains:        []*listener.FilterChain{{Name: name, Filters: []*listener.Filter{r.chains[i].filter}}},
	}
}

// With adds what only old has: destinations that have left, with all that serves them.
// Clients that were redirected a moment ago still come.
func (r Rendered) With(old Rendered) Rendered {
	all := Rendered{port: r.port, proxy: r.proxy, expose: r.expose, chains: slices.Clone(r.chains), ranges: slices.Clone(r.ranges), out: ads.State{}}
	for t := range r.out {
		all.out[t] = maps.Clone(old.out[t])
		if all.out[t] == nil {
			all.out[t] = ads.Set{}
		}
		maps.Copy(all.out[t], r.out[t])
	}
	for _, c := range old.chains {
		if !slices.ContainsFunc(r.chains, func(n chain) bool { return n.name == c.name }) {
			all.chains = append(all.chains, c)
		}
	}
	for _, gone := range old.ranges {
		i := slices.IndexFunc(all.ranges, func(a addressed) bool { return a.address == gone.address })
		switch {
		case i < 0:
			all.ranges = append(all.ranges, gone)
		case gone.always == "" && all.ranges[i].always == "":
			ports := maps.Clone(gone.ports)
			maps.Copy(ports, all.ranges[i].ports)
			all.ranges[i].ports = ports
		}
	}
	return all
}

// passOn is the cluster of whatever address a connection was for.
func passOn() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: directChain, ConnectTimeout: durationpb.New(connectTimeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterv3.Cluster_CLUSTER_PROVIDED, CircuitBreakers: breakers(),
	}
}

func filter(name string, m proto.Message) *listener.Filter {
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: must(ads.Pack(m))}}
}

func (r *renderer) tcpChain(name string) {
	r.chains = append(r.chains, chain{name, filter("envoy.filters.network.tcp_proxy", &tcp.TcpProxy{
		StatPrefix: name, ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: name},
	})})
}

// httpChain takes its routes by name: a changed weight then changes no chain, and
// reaches connections that are open.
func (r *renderer) httpChain(name string, svc *intent.Service, p intent.Port) error {
	table, err := r.routeTable(name, svc, p)
	if err != nil {
		return err
	}
	if err := r.put(ads.Routes, name, table); err != nil {
		return err
	}
	r.chains = append(r.chains, chain{name, filter("envoy.filters.network.http_connection_manager", &hcm.HttpConnectionManager{
		StatPrefix:     "inbound_0.0.0.0_" + strconv.Itoa(int(p.Port)) + ";",
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: name, ConfigSource: fromADS()}},
		HttpFilters: []*hcm.HttpFilter{{
			Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: must(ads.Pack(&router.Router{}))},
		}},
		ServerHeaderTransformation:   hcm.HttpConnectionManager_PASS_THROUGH,
		StreamIdleTimeout:            durationpb.New(0),
		UseRemoteAddress:             wrapperspb.Bool(false),
		Proxy_100Continue:            true,
		UpgradeConfigs:               []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		NormalizePath:                wrapperspb.Bool(true),
		PathWithEscapedSlashesAction: hcm.HttpConnectionManager_KEEP_UNCHANGED,
	})})
	return nil
}

// handOffs are the listeners of hand-offs: one for each codec that is served.
func (r Rendered) handOffs() []*listener.Listener {
	var all []*listener.Listener
	if r.port != 0 {
		all = append(all, r.listener())
	}
	if r.proxy != 0 {
		all = append(all, Proxied(r.listener(), r.proxy))
	}
	return all
}

// Proxied is a listener of hand-offs in the form for those that come with a PROXY
// header of version 2: it reads what each connection was for there, and waits for it as
// long as the client is silent. Without a header it closes the connection.
func Proxied(l *listener.Listener, port uint16) *listener.Listener {
	l = proto.Clone(l).(*listener.Listener)
	at := func(a netip.Addr) *core.Address { return socket(netip.AddrPortFrom(a, port)) }
	l.Name, l.StatPrefix, l.Address = ProxyListener, ProxyListener, at(netip.IPv4Unspecified())
	l.AdditionalAddresses = []*listener.AdditionalAddress{{Address: at(netip.IPv6Unspecified())}}
	l.ListenerFiltersTimeout = durationpb.New(0)
	l.ListenerFilters = slices.DeleteFunc(l.ListenerFilters, func(f *listener.ListenerFilter) bool { return f.Name == originalDst })
	l.ListenerFilters = slices.Insert(l.ListenerFilters, 0, &listener.ListenerFilter{
		Name: "envoy.filters.listener.proxy_protocol",
		ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: must(ads.Pack(&proxyprotocol.ProxyProtocol{
			DisallowedVersions: []core.ProxyProtocolConfig_Version{core.ProxyProtocolConfig_V1},
		}))},
	})
	return l
}

// originalDst is the name by which istiod, too, knows the filter.
const originalDst = "envoy.filters.listener.original_dst"

// listener is on the hand-off port of both families, asks the kernel for what each
// connection was for, and has no chain for what it has no answer to.
func (r Rendered) listener() *listener.Listener {
	at := func(a netip.Addr) *core.Address { return socket(netip.AddrPortFrom(a, r.port)) }
	l := &listener.Listener{
		Name: HandOffListener, StatPrefix: HandOffListener,
		Address:             at(netip.IPv4Unspecified()),
		AdditionalAddresses: []*listener.AdditionalAddress{{Address: at(netip.IPv6Unspecified())}},
		ListenerFilters: []*listener.ListenerFilter{{
			Name:       originalDst,
			ConfigType: &listener.ListenerFilter_TypedConfig{TypedConfig: must(ads.Pack(&original.OriginalDst{}))},
		}},
		FilterChainMatcher: r.matcher(),
	}
	for _, c := range r.chains {
		l.FilterChains = append(l.FilterChains, &listener.FilterChain{Name: c.name, Filters: []*listener.Filter{c.filter}})
	}
	return l
}

// matcher is istiod's tree: address, then port, then the name of a chain.
func (r Rendered) matcher() *xds.Matcher {
	tree := &xds.IPMatcher{}
	for _, a := range r.ranges {
		on := onChain(a.always)
		if a.always == "" {
			on = onPorts(a.ports)
		}
		tree.RangeMatchers = append(tree.RangeMatchers, &xds.IPMatcher_IPRangeMatcher{
			Ranges: []*matcher.CidrRange{{
				AddressPrefix: a.address.String(), PrefixLen: wrapperspb.UInt32(uint32(a.address.BitLen())),
			}},
			OnMatch: on,
		})
	}
	return &xds.Matcher{MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
		Input:    input("ip", &inputs.DestinationIPInput{}),
		TreeType: &xds.Matcher_MatcherTree_CustomMatch{CustomMatch: input("ip", tree)},
	}}}
}

func input(name string, m proto.Message) *matcher.TypedExtensionConfig {
	return &matcher.TypedExtensionConfig{Name: name, TypedConfig: must(ads.Pack(m))}
}

func onPorts(ports map[uint16]string) *xds.Matcher_OnMatch {
	by := map[string]*xds.Matcher_OnMatch{}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		by[strconv.Itoa(int(port))] = onChain(ports[port])
	}
	return &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Matcher{Matcher: &xds.Matcher{
		MatcherType: &xds.Matcher_MatcherTree_{MatcherTree: &xds.Matcher_MatcherTree{
			Input:    input("port", &inputs.DestinationPortInput{}),
			TreeType: &xds.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xds.Matcher_MatcherTree_MatchMap{Map: by}},
		}},
	}}}
}

func onChain(name string) *xds.Matcher_OnMatch {
	return &xds.Matcher_OnMatch{OnMatch: &xds.Matcher_OnMatch_Action{Action: input(name, wrapperspb.String(name))}}
}

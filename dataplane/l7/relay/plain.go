package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

const (
	// plainName is the cluster that leads to where a connection was going, and what ends
	// the names of chains that lead there.
	plainName = "handoff_plain"
	// connectTime bounds the connect to a workload, as istiod has it for endpoints.
	connectTime = 10 * time.Second
)

func plain(chain string) string { return chain + "/" + plainName }

// plainly lets what was for the address of a workload without HBONE pass to it as it came:
// istiod sends all that is for workloads' own addresses through HBONE, which those of this
// mesh need not speak. Services have that in their endpoints.
func (w *work) plainly(l *listener.Listener) error {
	if w.workloads == nil {
		return nil
	}
	// It is there before it is referred to, and as long.
	if err := w.put(w.view.Clusters, plainName, asItCame()); err != nil {
		return err
	}
	at := addresses(l.FilterChainMatcher)
	if at == nil {
		return nil
	}
	custom, ranges := at.GetMatcherTree().GetCustomMatch(), new(xds.IPMatcher)
	if err := custom.TypedConfig.UnmarshalTo(ranges); err != nil {
		return err
	}
	without := w.workloads.withoutTunnel()
	any := false
	for _, r := range slices.Clone(ranges.RangeMatchers) {
		one, err := splitRange(r, without)
		if err != nil {
			return err
		}
		if one != nil {
			any = true
			ranges.RangeMatchers = append(ranges.RangeMatchers, one)
		}
	}
	if !any {
		return nil
	}
	ranges.RangeMatchers = slices.DeleteFunc(ranges.RangeMatchers, func(r *xds.IPMatcher_IPRangeMatcher) bool { return len(r.Ranges) == 0 })
	packed, err := ads.Pack(ranges)
	if err != nil {
		return err
	}
	custom.TypedConfig = packed
	return w.plainChains(l)
}

// splitRange takes the addresses without HBONE out of what leads to workloads, and returns
// what leads to those; nil where there are none.
func splitRange(r *xds.IPMatcher_IPRangeMatcher, without map[netip.Addr]bool) (*xds.IPMatcher_IPRangeMatcher, error) {
	open := func(c *xdscore.CidrRange) bool {
		a, err := netip.ParseAddr(c.AddressPrefix)
		return err == nil && int(c.PrefixLen.GetValue()) == a.BitLen() && without[a]
	}
	out := &xds.IPMatcher_IPRangeMatcher{OnMatch: proto.Clone(r.OnMatch).(*xds.Matcher_OnMatch), Exclusive: r.Exclusive}
	direct := false
	err := leaf(out.OnMatch, func(on *xds.Matcher_OnMatch) error {
		name := new(wrapperspb.StringValue)
		if on.GetAction().GetTypedConfig().UnmarshalTo(name) != nil || !strings.HasPrefix(name.Value, directPrefix) {
			return nil
		}
		direct = true
		action, err := ads.Pack(wrapperspb.String(plain(name.Value)))
		on.OnMatch = &xds.Matcher_OnMatch_Action{Action: &xdscore.TypedExtensionConfig{Name: plain(name.Value), TypedConfig: action}}
		return err
	})
	if err != nil || !direct {
		return nil, err
	}
	for _, c := range r.Ranges {
		if open(c) {
			out.Ranges = append(out.Ranges, c)
		}
	}
	if len(out.Ranges) == 0 {
		return nil, nil
	}
	r.Ranges = slices.DeleteFunc(r.Ranges, open)
	return out, nil
}

// plainChains adds, beside each chain for workloads, one that leads to plainName.
func (w *work) plainChains(l *listener.Listener) error {
	for _, c := range slices.Clone(l.FilterChains) {
		if !strings.HasPrefix(c.Name, directPrefix) {
			continue
		}
		p := proto.Clone(c).(*listener.FilterChain)
		p.Name = plain(c.Name)
		for _, f := range p.Filters {
			changed, err := towards(f.GetTypedConfig(), plainName)
			if err != nil {
				return fmt.Errorf("chain %s: filter %s: %w", c.Name, f.Name, err)
			}
			if changed != nil {
				f.ConfigType = &listener.Filter_TypedConfig{TypedConfig: changed}
			}
		}
		w.counts[plainDirect]++
		l.FilterChains = append(l.FilterChains, p)
	}
	return nil
}

// towards gives a filter another cluster, all of whose traffic is for one; nil where it
// has none.
func towards(config *anypb.Any, name string) (*anypb.Any, error) {
	switch {
	case config == nil:
	case config.MessageIs((*tcp.TcpProxy)(nil)):
		p := new(tcp.TcpProxy)
		if err := config.UnmarshalTo(p); err != nil {
			return nil, err
		}
		p.ClusterSpecifier = &tcp.TcpProxy_Cluster{Cluster: name}
		return ads.Pack(p)
	case config.MessageIs((*hcm.HttpConnectionManager)(nil)):
		h := new(hcm.HttpConnectionManager)
		if err := config.UnmarshalTo(h); err != nil {
			return nil, err
		}
		for _, host := range h.GetRouteConfig().GetVirtualHosts() {
			for _, r := range host.Routes {
				if to, is := r.GetRoute().GetClusterSpecifier().(*route.RouteAction_Cluster); is {
					to.Cluster = name
				}
			}
		}
		return ads.Pack(h)
	}
	return nil, nil
}

// asItCame is the cluster whose endpoint is where each connection was going, by the
// protocol that it came by.
func asItCame() *cluster.Cluster {
	options, err := ads.Pack(&upstreams.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreams.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: &core.Http1ProtocolOptions{}, Http2ProtocolOptions: &core.Http2ProtocolOptions{},
			},
		},
	})
	c := &cluster.Cluster{
		Name: plainName, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_ORIGINAL_DST},
		LbPolicy: cluster.Cluster_CLUSTER_PROVIDED, ConnectTimeout: durationpb.New(connectTime),
		CircuitBreakers: &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
			MaxConnections: most(), MaxPendingRequests: most(), MaxRequests: most(), MaxRetries: most(),
		}}},
	}
	if err == nil { // it is made of constants
		c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: options}
	}
	return c
}

// most takes Envoy's own limits per cluster away, as istiod does.
func most() *wrapperspb.UInt32Value { return wrapperspb.UInt32(1<<32 - 1) }

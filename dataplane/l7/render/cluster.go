package render

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// connectTimeout bounds the connect to an endpoint, as istiod has it.
const connectTimeout = 10 * time.Second

// unlimited takes Envoy's own limits per cluster away, as istiod does: the limit of a
// waypoint is that of its connections.
const unlimited = 1<<32 - 1

// clusters renders what routes and chains have named.
func (r *renderer) clusters() error {
	for _, name := range slices.Sorted(maps.Keys(r.needed)) {
		c := r.needed[name]
		if err := r.put(ads.Clusters, name, c.proto()); err != nil {
			return err
		}
		if err := r.put(ads.Endpoints, name, c.endpoints(r.Place)); err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) put(t, name string, m proto.Message) error {
	body, err := ads.NewBody(m)
	if err != nil {
		return err
	}
	r.out[t][name] = body
	return nil
}

func (c cluster) proto() *clusterv3.Cluster {
	out := &clusterv3.Cluster{
		Name: c.name, AltStatName: c.name + ";",
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS(), ServiceName: c.name},
		ConnectTimeout:       durationpb.New(connectTimeout),
		LbPolicy:             clusterv3.Cluster_LEAST_REQUEST,
		CircuitBreakers:      breakers(),
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
	}
	if isHTTP2(c.port) {
		out.TypedExtensionProtocolOptions = http2()
	}
	return out
}

func breakers() *clusterv3.CircuitBreakers {
	no := wrapperspb.UInt32(unlimited)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: no, MaxPendingRequests: no, MaxRequests: no, MaxRetries: no,
	}}}
}

// http2 makes an upstream speak HTTP/2.
func http2() map[string]*anypb.Any {
	options := must(ads.Pack(&upstreams.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &core.Http2ProtocolOptions{},
				},
			},
		},
	}))
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
}

// must is for messages that this package has made itself, which can be marshalled.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fromADS refers to the one stream that everything comes by. Envoy waits for it as
// long as it takes.
func fromADS() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

// endpoints are those that the service allows from this waypoint's place.
func (c cluster) endpoints(from intent.Place) *endpoint.ClusterLoadAssignment {
	out := &endpoint.ClusterLoadAssignment{ClusterName: c.name}
	var all []*endpoint.LbEndpoint
	total := uint64(0)
	for _, t := range c.service.Targets(c.port, c.v6(), from) {
		all = append(all, &endpoint.LbEndpoint{
			HostIdentifier:      &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socket(t.Addr)}},
			HealthStatus:        core.HealthStatus_HEALTHY,
			LoadBalancingWeight: wrapperspb.UInt32(t.Weight),
		})
		total += uint64(t.Weight)
	}
	if len(all) > 0 {
		out.Endpoints = []*endpoint.LocalityLbEndpoints{{
			LbEndpoints: all, LoadBalancingWeight: wrapperspb.UInt32(uint32(min(total, unlimited))),
		}}
	}
	return out
}

// v6 chooses the family in which endpoints are reached: IPv4 unless the service has
// only addresses of the other.
func (c cluster) v6() bool {
	return len(c.service.Addresses) > 0 && !slices.ContainsFunc(c.service.Addresses, netip.Addr.Is4)
}

func socket(a netip.AddrPort) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

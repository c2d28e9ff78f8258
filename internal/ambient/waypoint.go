package ambient

import (
	"fmt"
	"net/netip"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routes "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcp "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	upstream "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	raw "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	protobuf "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Tunnel is what a stock Envoy needs around a chain of filters to be the waypoint of
// an ambient mesh: a listener that ends the client's tunnel, and one that opens
// another to the server's node proxy. The chain itself is somebody else's.
type Tunnel struct {
	// Own are the waypoint's.
	Own Credentials
	// Service is what clients' proxies ask for: a service's address and port.
	Service netip.AddrPort
	// Filters handle what comes out of the client's tunnel.
	Filters []*listener.Filter
	// Server is the application behind the other tunnel, Peer the identity that
	// must be there.
	Server netip.AddrPort
	Peer   string
}

// Listeners and clusters of a waypoint, by the names that Istio's have.
const (
	terminateListener = "connect_terminate"
	mainListener      = "main_internal"
	originateListener = "connect_originate"
	tunnelCluster     = "outbound_tunnel"

	tunnelConnect = 10e9 // nanoseconds, as ztunnel has it
)

// Listeners are the outer end of the client's tunnel, what is inside it, and the
// inner end of the server's.
func (t Tunnel) Listeners() ([]*listener.Listener, error) {
	secure, err := t.downstream()
	if err != nil {
		return nil, err
	}
	terminate, err := filter("envoy.filters.network.http_connection_manager", t.terminate())
	if err != nil {
		return nil, err
	}
	originate, err := filter("envoy.filters.network.tcp_proxy", &tcp.TcpProxy{
		StatPrefix: originateListener, ClusterSpecifier: &tcp.TcpProxy_Cluster{Cluster: tunnelCluster},
		TunnelingConfig: &tcp.TcpProxy_TunnelingConfig{Hostname: t.Server.String()},
	})
	if err != nil {
		return nil, err
	}
	inside := &listener.Listener_InternalListener{InternalListener: &listener.Listener_InternalListenerConfig{}}
	return []*listener.Listener{
		{
			Name: terminateListener, Address: socketAt(netip.AddrPortFrom(netip.IPv4Unspecified(), HBONEPort)),
			FilterChains: []*listener.FilterChain{{TransportSocket: secure, Filters: []*listener.Filter{terminate}}},
		},
		{
			Name: mainListener, ListenerSpecifier: inside,
			FilterChains: []*listener.FilterChain{{Filters: t.Filters}},
		},
		{
			Name: originateListener, ListenerSpecifier: inside,
			FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{originate}}},
		},
	}, nil
}

// terminate takes CONNECT to the service, and nothing else.
func (t Tunnel) terminate() *hcm.HttpConnectionManager {
	upgrade := &routes.RouteAction_UpgradeConfig{UpgradeType: "CONNECT", ConnectConfig: &routes.RouteAction_UpgradeConfig_ConnectConfig{}}
	return &hcm.HttpConnectionManager{
		StatPrefix: terminateListener, CodecType: hcm.HttpConnectionManager_HTTP2,
		GenerateRequestId: wrapperspb.Bool(false), StreamIdleTimeout: durationpb.New(0),
		Http2ProtocolOptions: &core.Http2ProtocolOptions{AllowConnect: true},
		UpgradeConfigs:       []*hcm.HttpConnectionManager_UpgradeConfig{{UpgradeType: "CONNECT"}},
		HttpFilters: []*hcm.HttpFilter{{
			Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: packed(&router.Router{})},
		}},
		RouteSpecifier: &hcm.HttpConnectionManager_RouteConfig{RouteConfig: &routes.RouteConfiguration{
			Name: terminateListener,
			VirtualHosts: []*routes.VirtualHost{{
				Name: "service", Domains: []string{t.Service.String()},
				Routes: []*routes.Route{{
					Match: &routes.RouteMatch{PathSpecifier: &routes.RouteMatch_ConnectMatcher_{ConnectMatcher: &routes.RouteMatch_ConnectMatcher{}}},
					Action: &routes.Route_Route{Route: &routes.RouteAction{
						ClusterSpecifier: &routes.RouteAction_Cluster{Cluster: mainListener},
						UpgradeConfigs:   []*routes.RouteAction_UpgradeConfig{upgrade}, Timeout: durationpb.New(0),
					}},
				}},
			}},
		}},
	}
}

// Clusters are the way into the chain, and the tunnel to the server's node proxy.
func (t Tunnel) Clusters() ([]*cluster.Cluster, error) {
	into := &cluster.Cluster{
		Name: mainListener, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		LoadAssignment: assignment(mainListener, internal(mainListener)),
	}
	Inside(into)
	own, err := t.common([]*matcher.StringMatcher{{MatchPattern: &matcher.StringMatcher_Exact{Exact: t.Peer}}})
	if err != nil {
		return nil, err
	}
	secure, err := pack(&tls.UpstreamTlsContext{CommonTlsContext: own})
	if err != nil {
		return nil, err
	}
	return []*cluster.Cluster{into, {
		Name: tunnelCluster, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		ConnectTimeout:  durationpb.New(tunnelConnect),
		LoadAssignment:  assignment(tunnelCluster, socketAt(netip.AddrPortFrom(t.Server.Addr(), HBONEPort))),
		TransportSocket: &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: secure}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(&upstreams.HttpProtocolOptions{
				UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
							Http2ProtocolOptions: &core.Http2ProtocolOptions{AllowConnect: true},
						},
					},
				},
			}),
		},
	}}, nil
}

// Backend is where the chain's own cluster has its endpoint: the other tunnel.
func (Tunnel) Backend() *core.Address { return internal(originateListener) }

// Inside makes a cluster's endpoints listeners of the same Envoy.
func Inside(c *cluster.Cluster) {
	c.TransportSocket = &core.TransportSocket{
		Name: "envoy.transport_sockets.internal_upstream",
		ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: packed(&upstream.InternalUpstreamTransport{
			TransportSocket: &core.TransportSocket{
				Name:       "envoy.transport_sockets.raw_buffer",
				ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: packed(&raw.RawBuffer{})},
			},
		})},
	}
}

func internal(name string) *core.Address {
	return &core.Address{Address: &core.Address_EnvoyInternalAddress{EnvoyInternalAddress: &core.EnvoyInternalAddress{
		AddressNameSpecifier: &core.EnvoyInternalAddress_ServerListenerName{ServerListenerName: name},
	}}}
}

func socketAt(a netip.AddrPort) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func assignment(name string, a *core.Address) *endpoint.ClusterLoadAssignment {
	return &endpoint.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpoint.LocalityLbEndpoints{{
		LbEndpoints: []*endpoint.LbEndpoint{{HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: a}}}},
	}}}
}

// downstream is the end that clients' proxies meet: anyone of the trust domain.
func (t Tunnel) downstream() (*core.TransportSocket, error) {
	own, err := t.common([]*matcher.StringMatcher{{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: "spiffe://" + TrustDomain + "/"}}})
	if err != nil {
		return nil, err
	}
	secure, err := pack(&tls.DownstreamTlsContext{CommonTlsContext: own, RequireClientCertificate: wrapperspb.Bool(true)})
	if err != nil {
		return nil, err
	}
	return &core.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &core.TransportSocket_TypedConfig{TypedConfig: secure}}, nil
}

// common is TLS 1.3 with h2, and a peer with one of the names.
func (t Tunnel) common(names []*matcher.StringMatcher) (*tls.CommonTlsContext, error) {
	if len(t.Own.Chain) == 0 || len(t.Own.Key) == 0 || len(t.Own.Roots) == 0 {
		return nil, fmt.Errorf("waypoint of %s: it has no credentials", t.Service)
	}
	inline := func(b []byte) *core.DataSource {
		return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
	}
	check := &tls.CertificateValidationContext{TrustedCa: inline(t.Own.Roots)}
	for _, n := range names {
		check.MatchTypedSubjectAltNames = append(check.MatchTypedSubjectAltNames, &tls.SubjectAltNameMatcher{
			SanType: tls.SubjectAltNameMatcher_URI, Matcher: n,
		})
	}
	return &tls.CommonTlsContext{
		AlpnProtocols:         []string{"h2"},
		TlsParams:             &tls.TlsParameters{TlsMinimumProtocolVersion: tls.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tls.TlsParameters_TLSv1_3},
		TlsCertificates:       []*tls.TlsCertificate{{CertificateChain: inline(t.Own.Chain), PrivateKey: inline(t.Own.Key)}},
		ValidationContextType: &tls.CommonTlsContext_ValidationContext{ValidationContext: check},
	}, nil
}

func filter(name string, m protobuf.Message) (*listener.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listener.Filter{Name: name, ConfigType: &listener.Filter_TypedConfig{TypedConfig: a}}, nil
}

func pack(m protobuf.Message) (*anypb.Any, error) {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, protobuf.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("write %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return a, nil
}

// packed is pack for messages of constants alone, which can be written.
func packed(m protobuf.Message) *anypb.Any {
	a, err := pack(m)
	if err != nil {
		panic(err)
	}
	return a
}

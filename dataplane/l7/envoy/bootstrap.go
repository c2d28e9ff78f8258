package envoy

import (
	"fmt"
	"syscall"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	overload "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	internal "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	connections "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The names of the static clusters. istiod's resources ask for secrets by the second.
const (
	xdsCluster = "xds-grpc"
	sdsCluster = "sds-grpc"
)

// Bootstrap is what Envoy must know before it asks.
type Bootstrap struct {
	// Node is who asks.
	Node *core.Node
	// XDS and SDS are the unix sockets that it asks; without SDS it has no secrets.
	XDS, SDS string
	// Admin is the unix socket of its admin API.
	Admin string
	// Connections bounds its connections; above it, new ones are refused and counted.
	// Envoy ends by a fault when it runs out of descriptors.
	Connections int64
}

// reserve is how many descriptors Envoy needs for itself.
const reserve = 500

// MaxConnections is how many connections a process with so many descriptors may have:
// each takes one on either side.
func MaxConnections(descriptors uint64) int64 {
	if descriptors < 2*reserve {
		return reserve / 2
	}
	return int64(min(descriptors, 1<<30)-reserve) / 2
}

// Descriptors raises this process's limit of open files as far as it may be, for the
// processes that it starts, and returns it.
func Descriptors() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	// Set, it is what children get: the Go runtime gives them the limit from before
	// its own raise otherwise.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return limit.Cur, nil
}

// JSON is the bootstrap as Envoy reads it.
func (b Bootstrap) JSON() ([]byte, error) {
	listeners, err := pack(&internal.InternalListener{})
	if err != nil {
		return nil, err
	}
	limit, err := pack(&connections.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: b.Connections})
	if err != nil {
		return nil, err
	}
	out := &bootstrap.Bootstrap{
		Node:                b.Node,
		Admin:               &bootstrap.Admin{Address: pipe(b.Admin)},
		BootstrapExtensions: []*core.TypedExtensionConfig{{Name: "envoy.bootstrap.internal_listener", TypedConfig: listeners}},
		OverloadManager: &overload.OverloadManager{ResourceMonitors: []*overload.ResourceMonitor{{
			Name:       "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overload.ResourceMonitor_TypedConfig{TypedConfig: limit},
		}}},
		DynamicResources: dynamic(),
		StaticResources:  &bootstrap.Bootstrap_StaticResources{},
	}
	for name, socket := range map[string]string{xdsCluster: b.XDS, sdsCluster: b.SDS} {
		if socket == "" {
			continue
		}
		c, err := local(name, socket)
		if err != nil {
			return nil, err
		}
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, c)
	}
	data, err := protojson.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("write the bootstrap: %w", err)
	}
	return data, nil
}

func pack(m proto.Message) (*anypb.Any, error) {
	a, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("write the bootstrap: %w", err)
	}
	return a, nil
}

func dynamic() *bootstrap.Bootstrap_DynamicResources {
	ads := &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
	return &bootstrap.Bootstrap_DynamicResources{
		AdsConfig: &core.ApiConfigSource{
			ApiType: core.ApiConfigSource_DELTA_GRPC, TransportApiVersion: core.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*core.GrpcService{{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: xdsCluster},
			}}},
		},
		CdsConfig: ads, LdsConfig: ads,
	}
}

// local is a gRPC server on a unix socket.
func local(name, socket string) (*cluster.Cluster, error) {
	options, err := pack(&upstreams.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreams.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &core.Http2ProtocolOptions{},
				},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return &cluster.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		ConnectTimeout:                durationpb.New(connectTime),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
		LoadAssignment: &endpoint.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: []*endpoint.LbEndpoint{{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: pipe(socket)}},
			}}}},
		},
	}, nil
}

func pipe(path string) *core.Address {
	return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: path}}}
}

package ads

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The types of resources, in the order in which Envoy must have them: what is
// referred to comes before what refers to it.
const (
	Clusters  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	Endpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	Listeners = "type.googleapis.com/envoy.config.listener.v3.Listener"
	Routes    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	// Extensions are configurations of filters that a listener names.
	Extensions = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	Secrets    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Pack marshals a message in the one way that gives equal bytes for equal messages:
// to Envoy, other bytes are another resource.
func Pack(m proto.Message) (*anypb.Any, error) {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, fmt.Errorf("marshal %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return a, nil
}

// Body is a resource with the version that its bytes give it.
type Body struct {
	Version string
	Any     *anypb.Any
}

// NewBody packs a message.
func NewBody(m proto.Message) (Body, error) {
	a, err := Pack(m)
	if err != nil {
		return Body{}, err
	}
	return BodyOf(a), nil
}

// BodyOf gives packed bytes their version.
func BodyOf(a *anypb.Any) Body {
	sum := sha256.Sum256(a.Value)
	return Body{Version: hex.EncodeToString(sum[:8]), Any: a}
}

// Set holds the resources of one type by name.
type Set map[string]Body

// State holds the resources of all types, by type URL.
type State map[string]Set

package istiod

import (
	"fmt"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Identity is the pod that asks, as istiod wants to know it.
type Identity struct {
	// Kind is the kind of proxy: "ztunnel" for a node's dataplane, "waypoint".
	Kind string
	// IP, Pod and Namespace are those of the pod; Node is where it runs.
	IP, Pod, Namespace, Node string
	// Domain is the cluster's DNS domain; empty means DefaultDomain.
	Domain string
	// Metadata is sent beside what istiod always wants: CLUSTER_ID, NETWORK,
	// NODE_NAME and so on.
	Metadata map[string]any
}

// DefaultDomain is a cluster's DNS domain where nobody says otherwise.
const DefaultDomain = "cluster.local"

// ID is "kind~ip~pod.namespace~namespace.svc.domain", by which istiod knows a
// proxy.
func (i Identity) ID() string {
	domain := i.Domain
	if domain == "" {
		domain = DefaultDomain
	}
	return strings.Join([]string{i.Kind, i.IP, i.Pod + "." + i.Namespace, i.Namespace + ".svc." + domain}, "~")
}

// Proto makes the node of the first request of a stream.
func (i Identity) Proto() (*core.Node, error) {
	metadata := map[string]any{"NAMESPACE": i.Namespace, "NODE_NAME": i.Node}
	for k, v := range i.Metadata {
		metadata[k] = v
	}
	fields, err := structpb.NewStruct(metadata)
	if err != nil {
		return nil, fmt.Errorf("metadata of node %s: %w", i.ID(), err)
	}
	return &core.Node{Id: i.ID(), Metadata: fields}, nil
}

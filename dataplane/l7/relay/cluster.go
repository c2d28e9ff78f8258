package relay

import (
	"slices"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// Cluster leaves the filters of connections to endpoints out that stock Envoy does
// not have: with one of them it refuses all clusters. istiod puts them into those that
// an HTTPRoute leads to. A cluster without any comes back as it is.
func (t *Transformer) Cluster(raw *anypb.Any) (*anypb.Any, error) {
	c := new(cluster.Cluster)
	if err := raw.UnmarshalTo(c); err != nil {
		return nil, err
	}
	before := len(c.Filters)
	c.Filters = slices.DeleteFunc(c.Filters, func(f *cluster.Filter) bool {
		return f.GetTypedConfig() != nil && t.rules.drop(innerType(f.GetTypedConfig())) != ""
	})
	if len(c.Filters) == before {
		return raw, nil
	}
	return ads.Pack(c)
}

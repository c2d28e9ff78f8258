package relay

import (
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

func TestClusterFilters(t *testing.T) {
	transformer, err := NewTransformer(15029)
	if err != nil {
		t.Fatal(err)
	}
	exchange := &cluster.Filter{Name: "istio.metadata_exchange", TypedConfig: &anypb.Any{
		TypeUrl: "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
	}}
	stock := &cluster.Filter{Name: "own", TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.config.core.v3.Address"}}
	for name, x := range map[string]struct {
		filters []*cluster.Filter
		left    int
		same    bool
	}{
		"none":           {nil, 0, true},
		"stock Envoy's":  {[]*cluster.Filter{stock}, 1, true},
		"Istio's":        {[]*cluster.Filter{exchange}, 0, false},
		"Istio's beside": {[]*cluster.Filter{exchange, stock}, 1, false},
	} {
		raw, err := ads.Pack(&cluster.Cluster{Name: "outbound|80||a", Filters: x.filters})
		if err != nil {
			t.Fatal(err)
		}
		got, err := transformer.Cluster(raw)
		if err != nil {
			t.Fatal(err)
		}
		c := new(cluster.Cluster)
		if err := got.UnmarshalTo(c); err != nil {
			t.Fatal(err)
		}
		if len(c.Filters) != x.left || (got == raw) != x.same || c.Name != "outbound|80||a" {
			t.Errorf("%s: %v", name, c)
		}
	}
}

package relay

import (
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreams "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// httpOptions is where a cluster says how it speaks HTTP.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// cluster leaves filters out of a cluster that stock Envoy lacks: those of services that
// do not go through a waypoint themselves have such. One that needs no change is returned
// as it came.
func (t *Transformer) cluster(raw *anypb.Any) (*anypb.Any, map[string]int, error) {
	c := new(cluster.Cluster)
	if err := raw.UnmarshalTo(c); err != nil {
		return nil, nil, err
	}
	w := work{Transformer: t, counts: map[string]int{}}
	var kept []*cluster.Filter
	for _, f := range c.Filters {
		if !w.dropped(f.GetTypedConfig(), f.GetConfigDiscovery()) {
			kept = append(kept, f)
		}
	}
	c.Filters = kept
	if err := w.upstream(c); err != nil {
		return nil, nil, err
	}
	if len(w.counts) == 0 {
		return raw, nil, nil
	}
	changed, err := ads.Pack(c)
	return changed, w.counts, err
}

// upstream leaves HTTP filters out of a cluster.
func (w *work) upstream(c *cluster.Cluster) error {
	config := c.TypedExtensionProtocolOptions[httpOptions]
	if config == nil {
		return nil
	}
	o := new(upstreams.HttpProtocolOptions)
	if err := config.UnmarshalTo(o); err != nil {
		return err
	}
	var kept []*hcm.HttpFilter
	for _, f := range o.HttpFilters {
		if !w.dropped(f.GetTypedConfig(), f.GetConfigDiscovery()) {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(o.HttpFilters) {
		return nil
	}
	o.HttpFilters = kept
	packed, err := ads.Pack(o)
	if err == nil {
		c.TypedExtensionProtocolOptions[httpOptions] = packed
	}
	return err
}

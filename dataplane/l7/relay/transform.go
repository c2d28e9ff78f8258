package relay

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	udpa "github.com/cncf/xds/go/udpa/type/v1"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	xdstype "github.com/cncf/xds/go/xds/type/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	state "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpstate "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpstate "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// The names that istiod gives.
const (
	mainInternal  = "main_internal"
	servicePrefix = "inbound-vip|"
	directPrefix  = "direct-"
)

// View is what Envoy gets for the listeners of istiod.
type View struct {
	Listeners, Routes ads.Set
	// Clusters are added to those of istiod.
	Clusters ads.Set
	// HandOff is the copy of main_internal, in the form for SO_ORIGINAL_DST; nil without
	// one.
	HandOff *listener.Listener
	// Hosts are the services that have a chain, Refused the chains that a connection
	// without a principal may not use.
	Hosts, Refused []string
	// Workloads is how many ways lead to workloads' own addresses.
	Workloads int
	Changes   []api.Change
	counts    map[string]int
	made      uint64 // in which order views were made
}

// Transformer changes listeners.
type Transformer struct {
	rules rules
	Ports
	// sources say who has which address, and chosen who stands for a group of them; nil
	// where what was handed over has no principal at all.
	sources *sources
	chosen  map[string]string
	// workloads say who takes HBONE; nil where nobody says.
	workloads *sources
}

// Ports are those of hand-offs by SO_ORIGINAL_DST and by a PROXY header, in host byte
// order; 0: none.
type Ports struct{ Port, ProxyPort uint16 }

// NewTransformer makes one for hand-offs to these ports.
func NewTransformer(at Ports) (*Transformer, error) {
	r, err := loadRules()
	if err != nil {
		return nil, err
	}
	return &Transformer{rules: r, Ports: at, chosen: map[string]string{}}, nil
}

// Transform makes the View of listeners by name. Equal listeners give equal bytes.
func (t *Transformer) Transform(raw map[string]*anypb.Any) (View, error) {
	w := work{
		Transformer: t, counts: map[string]int{},
		view: View{Listeners: ads.Set{}, Routes: ads.Set{}, Clusters: ads.Set{}},
	}
	if t.sources != nil {
		w.identities = t.sources.identities()
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if err := w.listener(name, raw[name]); err != nil {
			return View{}, fmt.Errorf("listener %s: %w", name, err)
		}
	}
	for _, l := range w.handOffs(w.view.HandOff) {
		if err := w.put(w.view.Listeners, l.Name, l); err != nil {
			return View{}, err
		}
	}
	w.view.Changes, w.view.counts = t.rules.list(w.counts), w.counts
	return w.view, nil
}

// work is one Transform.
type work struct {
	*Transformer
	counts     map[string]int
	view       View
	identities map[netip.Addr]string
}

func (w *work) put(to ads.Set, name string, m proto.Message) error {
	body, err := ads.NewBody(m)
	if err != nil {
		return err
	}
	to[name] = body
	return nil
}

func (w *work) listener(name string, raw *anypb.Any) error {
	l := new(listener.Listener)
	if err := raw.UnmarshalTo(l); err != nil {
		return err
	}
	before, err := ads.Pack(l)
	if err != nil {
		return err
	}
	for _, c := range append(slices.Clone(l.FilterChains), l.DefaultFilterChain) {
		if c == nil {
			continue
		}
		if err := w.chain(c, name); err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
	}
	after, err := ads.Pack(l)
	if err != nil {
		return err
	}
	if bytes.Equal(before.Value, after.Value) {
		after = raw // as it came
	}
	w.view.Listeners[name] = ads.BodyOf(after)
	if name != mainInternal {
		return nil
	}
	w.view.Hosts = hosts(l)
	if w.view.Workloads, err = workloads(l); err != nil {
		return err
	}
	return w.handOff(l)
}

// hosts are the services that chains are for, each once.
func hosts(l *listener.Listener) []string {
	var all []string
	for _, c := range l.FilterChains {
		if parts := strings.Split(c.Name, "|"); strings.HasPrefix(c.Name, servicePrefix) && len(parts) == 4 {
			all = append(all, parts[3])
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// workloads counts the ways of a listener to chains for workloads' own addresses.
func workloads(l *listener.Listener) (n int, err error) {
	if l.FilterChainMatcher == nil {
		return 0, nil
	}
	err = eachLeaf(proto.Clone(l.FilterChainMatcher).(*xds.Matcher), func(on *xds.Matcher_OnMatch) error {
		name := new(wrapperspb.StringValue)
		if on.GetAction().GetTypedConfig().UnmarshalTo(name) == nil && strings.HasPrefix(name.Value, directPrefix) {
			n++
		}
		return nil
	})
	return n, err
}

// chain leaves filters out, renames factories and takes routes out.
func (w *work) chain(c *listener.FilterChain, of string) error {
	var kept []*listener.Filter
	for _, f := range c.Filters {
		if w.dropped(f.GetTypedConfig(), f.GetConfigDiscovery()) {
			continue
		}
		kept = append(kept, f)
		changed, err := w.filter(f.GetTypedConfig(), c.Name, of)
		if err != nil {
			return fmt.Errorf("filter %s: %w", f.Name, err)
		}
		if changed != nil {
			f.ConfigType = &listener.Filter_TypedConfig{TypedConfig: changed}
		}
	}
	c.Filters = kept
	return nil
}

// dropped counts a filter that is to be left out.
func (w *work) dropped(config *anypb.Any, later *core.ExtensionConfigSource) bool {
	types := later.GetTypeUrls()
	if config != nil {
		types = []string{innerType(config)}
	}
	for _, t := range types {
		if kind := w.rules.drop(t); kind != "" {
			w.counts[kind]++
			return true
		}
	}
	return false
}

// innerType is the type of a configuration that may be wrapped in a TypedStruct.
func innerType(a *anypb.Any) string {
	switch {
	case a.MessageIs((*udpa.TypedStruct)(nil)):
		var s udpa.TypedStruct
		if a.UnmarshalTo(&s) == nil {
			return s.TypeUrl
		}
	case a.MessageIs((*xdstype.TypedStruct)(nil)):
		var s xdstype.TypedStruct
		if a.UnmarshalTo(&s) == nil {
			return s.TypeUrl
		}
	}
	return a.TypeUrl
}

// filter returns the configuration of a network filter as it must be, nil when it stays.
func (w *work) filter(config *anypb.Any, chain, of string) (*anypb.Any, error) {
	switch {
	case config == nil:
		return nil, nil
	case config.MessageIs((*tcpstate.Config)(nil)):
		s := new(tcpstate.Config)
		if err := config.UnmarshalTo(s); err != nil {
			return nil, err
		}
		return w.renamed(s, s.OnNewConnection)
	case config.MessageIs((*hcm.HttpConnectionManager)(nil)):
		h := new(hcm.HttpConnectionManager)
		if err := config.UnmarshalTo(h); err != nil {
			return nil, err
		}
		if err := w.http(h, chain, of); err != nil {
			return nil, err
		}
		return ads.Pack(h)
	}
	return nil, nil
}

// renamed returns the message with its factories renamed, nil when none was.
func (w *work) renamed(m proto.Message, values []*state.FilterStateValue) (*anypb.Any, error) {
	changed := false
	for _, v := range values {
		for _, f := range w.rules.Factories {
			if v.FactoryKey == f.From {
				v.FactoryKey, changed = f.To, true
				w.counts[f.Kind]++
			}
		}
	}
	if !changed {
		return nil, nil
	}
	return ads.Pack(m)
}

// http changes the filters of HTTP, and takes the routes out of the chains of services:
// asked for by name, they change without the chain.
func (w *work) http(h *hcm.HttpConnectionManager, chain, of string) error {
	var kept []*hcm.HttpFilter
	for _, f := range h.HttpFilters {
		if w.dropped(f.GetTypedConfig(), f.GetConfigDiscovery()) {
			continue
		}
		kept = append(kept, f)
		if c := f.GetTypedConfig(); c != nil && c.MessageIs((*httpstate.Config)(nil)) {
			s := new(httpstate.Config)
			if err := c.UnmarshalTo(s); err != nil {
				return fmt.Errorf("filter %s: %w", f.Name, err)
			}
			changed, err := w.renamed(s, s.OnRequestHeaders)
			if err != nil {
				return err
			}
			if changed != nil {
				f.ConfigType = &hcm.HttpFilter_TypedConfig{TypedConfig: changed}
			}
		}
	}
	h.HttpFilters = kept
	table := h.GetRouteConfig()
	if of != mainInternal || table == nil || !strings.HasPrefix(chain, servicePrefix) {
		return nil
	}
	table.Name = chain
	w.counts[routeByName]++
	h.RouteSpecifier = &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: chain, ConfigSource: fromADS()}}
	return w.put(w.view.Routes, chain, table)
}

func fromADS() *core.ConfigSource {
	return &core.ConfigSource{
		ResourceApiVersion:    core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
	}
}

// refusing is the cluster that has no endpoints, for chains that refuse.
func refusing() *cluster.Cluster {
	return &cluster.Cluster{Name: needsIdentityName, ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}}
}

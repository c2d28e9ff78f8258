package render

import (
	"fmt"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previous "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// routeTable renders the routes of a service port: those with a match in their order,
// then the one without; without any, all requests go to the service's own endpoints.
func (r *renderer) routeTable(name string, svc *intent.Service, p intent.Port) (*route.RouteConfiguration, error) {
	host := &route.VirtualHost{Name: fmt.Sprintf("inbound|%s|%d", portName(p), p.Port), Domains: []string{"*"}}
	closed := false
	for _, rule := range r.routes[svc.Key()] {
		if closed {
			return nil, fmt.Errorf("route of service %s: stands behind one that takes all requests, and is never reached", svc.Key())
		}
		one, err := r.route(svc, rule)
		if err != nil {
			return nil, err
		}
		host.Routes = append(host.Routes, one)
		closed = rule.Match == intent.HeaderMatch{}
	}
	if !closed {
		to := action(0)
		to.ClusterSpecifier = &route.RouteAction_Cluster{Cluster: name}
		host.Routes = append(host.Routes, &route.Route{Match: matchAll(), Action: &route.Route_Route{Route: to}})
	}
	return &route.RouteConfiguration{
		Name: name, VirtualHosts: []*route.VirtualHost{host}, ValidateClusters: wrapperspb.Bool(false),
	}, nil
}

func matchAll() *route.RouteMatch {
	return &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}}
}

func (r *renderer) route(svc *intent.Service, rule *intent.Route) (*route.Route, error) {
	match := matchAll()
	if rule.Match.Name != "" {
		match.Headers = []*route.HeaderMatcher{{
			Name: rule.Match.Name,
			HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: &matcher.StringMatcher{
				MatchPattern: &matcher.StringMatcher_Exact{Exact: rule.Match.Exact},
			}},
		}}
	}
	shares := &route.WeightedCluster{}
	for _, b := range rule.Backends {
		name, err := r.backend(svc, b)
		if err != nil {
			return nil, err
		}
		shares.Clusters = append(shares.Clusters, &route.WeightedCluster_ClusterWeight{
			Name: name, Weight: wrapperspb.UInt32(b.Weight),
		})
	}
	to := action(rule.Timeout)
	to.ClusterSpecifier = &route.RouteAction_WeightedClusters{WeightedClusters: shares}
	if len(shares.Clusters) == 1 {
		to.ClusterSpecifier = &route.RouteAction_Cluster{Cluster: shares.Clusters[0].Name}
	}
	return &route.Route{Match: match, Action: &route.Route_Route{Route: to}}, nil
}

// action is what every route does beside choosing a cluster.
func action(timeout time.Duration) *route.RouteAction {
	return &route.RouteAction{Timeout: durationpb.New(timeout), RetryPolicy: retries()}
}

// retries are those that istiod gives to every route which names none: a request that
// no server has seen is asked again elsewhere.
func retries() *route.RetryPolicy {
	return &route.RetryPolicy{
		RetryOn:    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
		NumRetries: wrapperspb.UInt32(2),
		RetryHostPredicate: []*route.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &route.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: must(ads.Pack(&previous.PreviousHostsPredicate{}))},
		}},
		HostSelectionRetryMaxAttempts: 5,
	}
}

package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/scenario"
)

func useWaypoint(o *unstructured.Unstructured, s scenario.Service) {
	if s.Waypoint != "" {
		o.SetLabels(map[string]string{UseWaypoint: s.Waypoint})
	}
}

// httpRoute are a service's HTTP rules, in the form of the Gateway API.
func httpRoute(s scenario.Service, w World) (*unstructured.Unstructured, error) {
	if !inside(w.Services[s.Name], w.Ranges) {
		return nil, fmt.Errorf("%w: routes of a service outside the cluster's ranges: an HTTPRoute has a Service for its parent", scenario.ErrNotExpressible)
	}
	var rules []any
	for _, r := range s.Routes {
		var backends []any
		for _, b := range r.Backends {
			backends = append(backends, map[string]any{"name": b.Service, "port": int64(b.Port), "weight": int64(b.Weight)})
		}
		rule := map[string]any{"backendRefs": backends}
		if r.Header != "" {
			header := map[string]any{"name": r.Header, "value": r.Exact, "type": "Exact"}
			rule["matches"] = []any{map[string]any{"headers": []any{header}}}
		}
		if r.Timeout > 0 {
			rule["timeouts"] = map[string]any{"request": duration(r.Timeout)}
		}
		rules = append(rules, rule)
	}
	// Of all its ports: a route names the same parent once.
	parents := []any{map[string]any{"group": "", "kind": "Service", "name": s.Name}}
	return object(gatewayVersion, "HTTPRoute", s.Name, w, map[string]any{"parentRefs": parents, "rules": rules}), nil
}

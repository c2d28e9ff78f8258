package kube

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/scenario"
)

// UseWaypoint is the label by which a service names its waypoint.
const UseWaypoint = "istio.io/use-waypoint"

func useWaypoint(o *unstructured.Unstructured, s scenario.Service) {
	if s.Waypoint != "" {
		o.SetLabels(map[string]string{UseWaypoint: s.Waypoint})
	}
}

// gatewayVersion is the version of the Gateway API's objects.
const gatewayVersion = "gateway.networking.k8s.io/v1"

func gateway(name string, w World) *unstructured.Unstructured {
	o := object(gatewayVersion, "Gateway", name, w, map[string]any{
		"gatewayClassName": "istio-waypoint",
		"listeners":        []any{map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}},
	})
	o.SetLabels(map[string]string{"istio.io/waypoint-for": "service"})
	return o
}

// httpRoute has the rules of a service, in their order.
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
			rule["matches"] = []any{map[string]any{"headers": []any{
				map[string]any{"type": "Exact", "name": r.Header, "value": r.Exact},
			}}}
		}
		if r.Timeout > 0 {
			rule["timeouts"] = map[string]any{"request": duration(r.Timeout)}
		}
		rules = append(rules, rule)
	}
	return object(gatewayVersion, "HTTPRoute", s.Name, w, map[string]any{
		"parentRefs": []any{map[string]any{"group": "", "kind": "Service", "name": s.Name}}, "rules": rules,
	}), nil
}

// duration writes a time as the Gateway API wants it (GEP-2257): no fractions.
func duration(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

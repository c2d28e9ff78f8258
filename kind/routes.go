package kind

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/duomesh/duomesh/internal/scenario"
)

// routes are what the configuration of a waypoint's Envoy must name for the services of
// o that pass it; see weights.
func (c *Cluster) routes(o scenario.Objects, waypoint string) map[string]int {
	want := map[string]int{}
	for _, s := range o.Services {
		if s.Waypoint != waypoint {
			continue
		}
		for _, r := range s.Routes {
			for _, b := range r.Backends {
				want[fmt.Sprintf("cluster %s.%s.svc.cluster.local", b.Service, c.namespace)]++
				if len(r.Backends) > 1 {
					want[fmt.Sprintf("%s.%s.svc.cluster.local=%d", b.Service, c.namespace, b.Weight)]++
				}
			}
		}
	}
	return want
}

// routed is what Envoy's dump of its configuration names.
func routed(dump []byte) (map[string]int, error) {
	var config any
	if err := json.Unmarshal(dump, &config); err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	have := map[string]int{}
	weights(config, have)
	return have, nil
}

// weights collects "host=weight" of all weighted clusters in a configuration, and
// "cluster host" of those that Envoy may send to. Istio names a cluster "direction|port|subset|host".
func weights(v any, into map[string]int) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			weights(one, into)
		}
	case map[string]any:
		// One that is warming yet would answer nobody.
		if active, ok := v["dynamic_active_clusters"].([]any); ok {
			for _, one := range active {
				if m, ok := one.(map[string]any)["cluster"].(map[string]any); ok {
					name, _ := m["name"].(string)
					into["cluster "+name[strings.LastIndex(name, "|")+1:]]++
				}
			}
		}
		name, named := v["name"].(string)
		weight, weighed := v["weight"].(float64)
		if named && weighed {
			name, _, _ = strings.Cut(name[strings.LastIndex(name, "|")+1:], ";")
			into[fmt.Sprintf("%s=%d", name, int(weight))]++
		}
		for _, one := range v {
			weights(one, into)
		}
	}
}

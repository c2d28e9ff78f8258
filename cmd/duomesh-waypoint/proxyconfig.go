package main

import (
	"encoding/json"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/duomesh/duomesh/dataplane/l7"
)

// proxyConfig joins what the environment says with the pod's annotation, and lets the
// server header of backends through where neither says otherwise: Istio's own agent
// leaves that to the mesh, and its waypoints overwrite the header.
func proxyConfig(s surroundings) (map[string]any, error) {
	out := map[string]any{}
	if text := s.env("PROXY_CONFIG"); text != "" {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			return nil, usagef("PROXY_CONFIG is not a JSON object: %w", err)
		}
	}
	annotations, err := readPairs(filepath.Join(podInfo, "annotations"))
	if err != nil {
		return nil, err
	}
	if text := annotations["proxy.istio.io/config"]; text != "" {
		var own map[string]any
		if err := yaml.Unmarshal([]byte(text), &own); err != nil {
			return nil, usagef("annotation proxy.istio.io/config: %w", err)
		}
		maps.Copy(out, own)
	}
	headers, _ := out["proxyHeaders"].(map[string]any)
	if headers == nil {
		headers = map[string]any{}
	}
	if _, said := headers["server"]; !said {
		headers["server"] = map[string]any{"disabled": true}
	}
	out["proxyHeaders"] = headers
	return out, nil
}

// ownConfig are the fields of Istio's ProxyConfig that are carried out here; proxyHeaders
// and proxyMetadata are istiod's business, image that of its template.
var ownConfig = []string{"concurrency", "terminationDrainDuration", "proxyHeaders", "proxyMetadata", "image"}

// byProxyConfig sets what the environment and the pod's annotation say and no flag does,
// and says what of it has no effect.
func (f flags) byProxyConfig(s surroundings, c *l7.Config, log *slog.Logger) error {
	said, err := proxyConfig(s)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(said)) {
		if !slices.Contains(ownConfig, name) {
			log.Warn("this field of ProxyConfig has no effect here but what istiod makes of it", "field", name)
		}
	}
	if n, there := said["concurrency"]; there && !s.given("concurrency") {
		if c.Concurrency, err = workers(n); err != nil {
			return err
		}
	}
	if text, there := said["terminationDrainDuration"]; there && !s.given("drain") {
		d, err := time.ParseDuration(asText(text))
		if err != nil || d < 0 {
			return usagef("terminationDrainDuration of ProxyConfig: %v is no time", text)
		}
		c.Drain = orNone(d)
	}
	return nil
}

func asText(v any) string {
	text, _ := v.(string)
	return text
}

// workers reads a number that came by JSON or YAML.
func workers(v any) (int, error) {
	switch n := v.(type) {
	case float64:
		if n >= 0 && n == float64(int(n)) {
			return int(n), nil
		}
	case uint64:
		return int(n), nil
	}
	return 0, usagef("concurrency of ProxyConfig: %v is no number of workers", v)
}

package l7

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/duomesh/duomesh/dataplane/l7/api"
)

func network(address string) (string, string) { return api.Network(address) }

// askTime bounds one question to Envoy on behalf of a door.
const askTime = 5 * time.Second

// readyHandler answers kubelet: /healthz/ready as Istio's agent does.
func (w *Waypoint) readyHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz/ready", func(out http.ResponseWriter, q *http.Request) {
		if _, waiting := w.ready(q.Context()); waiting != "" {
			http.Error(out, "not ready: waits for "+waiting, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(out, "ready")
	})
	return mux
}

// ready reports whether connections may be handed over; else for what it waits.
func (w *Waypoint) ready(ctx context.Context) (hosts []string, waiting string) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if w.draining.Load() {
		return nil, "its end: it drains"
	}
	if w.config.HandOff != nil {
		if err := w.config.HandOff(); err != nil {
			return nil, "the node's engine: " + err.Error()
		}
	}
	hosts, any, waiting := w.control.served()
	if waiting != "" {
		return hosts, waiting
	}
	if live, why := w.envoy.Admin.Live(ctx); !live {
		return hosts, "Envoy: " + why
	}
	if !any {
		return hosts, "" // nobody is sent here: there need not be a listener
	}
	for _, port := range w.config.handOffPorts() {
		if on, err := listening(port); err != nil || !on {
			return hosts, fmt.Sprintf("the hand-off listener on port %d", port)
		}
	}
	return hosts, ""
}

// adminHandler answers people and tools on this machine.
func (w *Waypoint) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(out http.ResponseWriter, q *http.Request) {
		s, err := w.settled(q.Context(), q.FormValue("version"))
		if err != nil {
			http.Error(out, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(out, s)
	})
	mux.HandleFunc("GET /counters", func(out http.ResponseWriter, q *http.Request) {
		all, err := w.envoy.Admin.Counters(q.Context(), q.FormValue("match"))
		if err != nil {
			http.Error(out, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(out, all)
	})
	mux.HandleFunc("GET /config", func(out http.ResponseWriter, q *http.Request) {
		w.pass(out, q, "/config_dump?include_eds")
	})
	return mux
}

func writeJSON(out http.ResponseWriter, v any) {
	out.Header().Set("Content-Type", "application/json")
	json.NewEncoder(out).Encode(v) // an error is the client's going away
}

// pass answers with what Envoy answers.
func (w *Waypoint) pass(out http.ResponseWriter, q *http.Request, path string) {
	body, err := w.envoy.Admin.Get(q.Context(), path)
	if err != nil {
		http.Error(out, err.Error(), http.StatusServiceUnavailable)
		return
	}
	out.Write(body) // an error is the client's going away
}

// settled returns the status once a version of the source has been dealt with; "" asks
// for none.
func (w *Waypoint) settled(ctx context.Context, version string) (api.Status, error) {
	for {
		changed := w.control.changed()
		s := w.control.source()
		if version == "" || s.Applied == version || (s.Seen == version && s.Problem != "") {
			return w.status(ctx), nil
		}
		select {
		case <-changed:
		case <-w.envoy.Done():
			return api.Status{}, fmt.Errorf("Envoy has ended: %w", w.envoy.Err()) //nolint:staticcheck // a name
		case <-ctx.Done():
			return api.Status{}, ctx.Err()
		}
	}
}

func (w *Waypoint) status(ctx context.Context) api.Status {
	hosts, waiting := w.ready(ctx)
	e := w.envoy.State()
	return api.Status{
		Schema: api.Schema, Version: api.Version, Waypoint: w.config.Name,
		Ready: waiting == "", Waiting: waiting, Source: w.control.source(), Services: hosts,
		Envoy:   api.Envoy{Path: w.config.Envoy, PID: e.PID, StandBy: e.StandBy, Restarts: e.Restarts, Connections: w.limit},
		Changes: w.control.changes(),
	}
}

// metricsHandler has our own metrics and Envoy's.
func (w *Waypoint) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{w})
	own := promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true})
	both := func(out http.ResponseWriter, q *http.Request) {
		own.ServeHTTP(out, q)
		if body, err := w.envoy.Admin.Get(q.Context(), "/stats/prometheus"); err == nil {
			io.Copy(out, bytes.NewReader(body)) // an error is the client's going away
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats/prometheus", both)
	mux.HandleFunc("GET /metrics", both)
	return mux
}

func (w *Waypoint) envoyMetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats/prometheus", func(out http.ResponseWriter, q *http.Request) { w.pass(out, q, "/stats/prometheus") })
	return mux
}

// collector counts what is not Envoy's.
type collector struct{ w *Waypoint }

var (
	readyMetric    = prometheus.NewDesc("duomesh_waypoint_ready", "1 when connections may be handed over.", nil, nil)
	restartsMetric = prometheus.NewDesc("duomesh_waypoint_envoy_restarts_total", "How often Envoy was started again.", nil, nil)
	changesMetric  = prometheus.NewDesc("duomesh_waypoint_config_changes",
		"Changes that stand in the configuration that istiod sent, by kind.", []string{"kind"}, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- readyMetric
	to <- restartsMetric
	to <- changesMetric
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	s := c.w.status(context.Background())
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	to <- prometheus.MustNewConstMetric(readyMetric, prometheus.GaugeValue, ready)
	to <- prometheus.MustNewConstMetric(restartsMetric, prometheus.CounterValue, float64(s.Envoy.Restarts))
	for _, ch := range s.Changes {
		to <- prometheus.MustNewConstMetric(changesMetric, prometheus.GaugeValue, float64(ch.Count), ch.Kind)
	}
}

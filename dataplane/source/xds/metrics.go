package xds

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/duomesh/duomesh/internal/istiod"
)

// Metrics counts what a Watch receives. It is a prometheus.Collector.
type Metrics struct {
	connected prometheus.Gauge
	messages  *prometheus.CounterVec
	refused   *prometheus.CounterVec
	ends      *prometheus.CounterVec
	disputed  prometheus.Gauge
}

// NewMetrics makes counters that are all there from the start.
func NewMetrics() *Metrics {
	m := &Metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "duomesh_xds_connected", Help: "1 while istiod answers on a stream.",
		}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duomesh_xds_messages_total", Help: "Answers of istiod, by type.",
		}, []string{"url"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duomesh_xds_refused_resources_total", Help: "Resources that were refused (NACK), by type.",
		}, []string{"url"}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "duomesh_xds_connection_terminations_total", Help: "Streams that ended or could not be opened, by reason.",
		}, []string{"reason"}),
	}
	m.disputed = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "duomesh_xds_disputed_handoffs", Help: "Waypoints whose annotation asks for an unknown hand-off, or for another than the agent was told.",
	})
	for _, url := range []string{addressType, authorizationType} {
		m.messages.WithLabelValues(url)
		m.refused.WithLabelValues(url)
	}
	for _, reason := range istiod.Reasons {
		m.ends.WithLabelValues(string(reason))
	}
	return m
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.connected, m.messages, m.refused, m.ends, m.disputed}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

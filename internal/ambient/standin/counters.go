package standin

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/duomesh/duomesh/internal/ambient"
)

// counters are those of a ztunnel that the driver reads.
type counters struct {
	registry *prometheus.Registry
	opened   *prometheus.CounterVec
}

func newCounters() *counters {
	c := &counters{registry: prometheus.NewRegistry(), opened: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: ambient.OpenedMetric, Help: "TCP connections opened, by what is known of both ends. A reference and not ztunnel.",
	}, []string{ambient.LabelReporter, ambient.LabelSource, ambient.LabelDestination, ambient.LabelSecurity})}
	c.registry.MustRegister(c.opened)
	return c
}

func (c *counters) open(reporter, source, destination, security string) {
	c.opened.WithLabelValues(reporter, source, destination, security).Inc()
}

func (c *counters) handler() http.Handler {
	return promhttp.HandlerFor(c.registry, promhttp.HandlerOpts{})
}

package agent

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsHandler serves /metrics, and the same at /status/metric, where Kmesh
// has it. A scrape that cannot read the kernel fails as a whole: a missing
// number would look like a fine one.
func metricsHandler(a *Agent) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{a}, a.delay)
	r.MustRegister(a.cfg.Collectors...)
	h := promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	mux.Handle("GET /status/metric", h)
	return mux
}

// newDelay is how long news take from the source to the kernel.
func newDelay() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "duomesh_source_to_kernel_seconds",
		Help:    "From the receipt of the oldest news in an update until connections that begin are decided by it.",
		Buckets: prometheus.ExponentialBuckets(.00025, 2, 16),
	})
}

// collector reads everything at the scrape.
type collector struct{ agent *Agent }

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("duomesh_"+name, help, labels, nil)
}

var (
	exitsMetric      = metric("exits_total", "Connections by how their decision ended, since the maps were made.", "exit")
	eventsMetric     = metric("events_total", "What should not or rarely happen in a decision, since the maps were made.", "event")
	mapUsedMetric    = metric("map_entries", "Entries in a map of the kernel.", "map")
	mapLimitMetric   = metric("map_entries_limit", "The most entries that a map can hold.", "map")
	mapBytesMetric   = metric("map_bytes", "Kernel memory of a map.", "map")
	diffMetric       = metric("audit_differences", "Entries of the kernel that are not what was applied, at the last audit.")
	repairedMetric   = metric("audit_repaired_total", "Differences that audits found, and repaired, since the agent started.")
	auditErrMetric   = metric("audit_failed", "1 when the last audit could not be made.")
	generationMetric = metric("snapshot_generation", "Updates that were applied since the agent started.")
	appliedMetric    = metric("snapshot_applied_timestamp_seconds", "When the last update was applied; 0 before the first.")
	refusedMetric    = metric("source_errors_total", "Updates that were refused since the agent started.")
	retriesMetric    = metric("source_retries_total", "Times that an update was tried again, since the kernel had refused it in the middle.")
	lossesMetric     = metric("source_losses_total", "Times that the source could not be asked, or not any more, since the agent started.")
	reachableMetric  = metric("source_reachable", "0 while the source cannot be asked; what was applied goes on.")
	healthyMetric    = metric("source_healthy", "0 when the last update was refused and the state before it goes on.")
	policiesMetric   = metric("policies_unenforced", "Policies that the source sent and that this build does not enforce.")
	namedMetric      = metric("workloads_unenforced", "Workloads that those policies name.")
	barredMetric     = metric("workloads_refused", "Workloads to which connections are refused, since policies name them and are not enforced.")
	podsMetric       = metric("enrolled_pods", "Enrolled pods: watched, unwatched (an earlier agent's, without processes), unknown (an entry without a pod).", "state")
	olderMetric      = metric("older_connections", "Connections that enrolled pods had made before: left (not redirected), ended (by --reset-existing).", "fate")
	neighbourMetric  = metric("neighbour_programs", "Foreign programs on the path of connections, as found at the start.")
	workingMetric    = metric("redirecting", "0 when the node's cgroup is gone and nothing is redirected.")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		exitsMetric, eventsMetric, mapUsedMetric, mapLimitMetric, mapBytesMetric, diffMetric, repairedMetric, auditErrMetric,
		generationMetric, appliedMetric, refusedMetric, retriesMetric, lossesMetric, reachableMetric, healthyMetric, policiesMetric, namedMetric, barredMetric, podsMetric, olderMetric, neighbourMetric, workingMetric,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.engine(ch)
	c.state(ch)
	c.pods(ch)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (c collector) engine(ch chan<- prometheus.Metric) {
	exits, err := c.agent.node.Exits()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(exitsMetric, err)
	}
	for name, n := range exits {
		counter(ch, exitsMetric, n, string(name))
	}
	events, err := c.agent.node.Events()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(eventsMetric, err)
	}
	for name, n := range events {
		counter(ch, eventsMetric, n, string(name))
	}
	usage, err := c.agent.node.Usage()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(mapBytesMetric, err)
	}
	for _, u := range usage {
		gauge(ch, mapBytesMetric, float64(u.Bytes), u.Map)
		if u.Limit > 0 {
			gauge(ch, mapUsedMetric, float64(u.Used), u.Map)
			gauge(ch, mapLimitMetric, float64(u.Limit), u.Map)
		}
	}
	gauge(ch, neighbourMetric, float64(len(c.agent.node.Neighbours())))
}

func (c collector) state(ch chan<- prometheus.Metric) {
	s, _ := c.agent.state.get()
	gauge(ch, generationMetric, float64(s.Applied.Generation))
	seconds := 0.0
	if !s.Applied.At.IsZero() {
		seconds = float64(s.Applied.At.UnixNano()) / 1e9
	}
	gauge(ch, appliedMetric, seconds)
	counter(ch, refusedMetric, s.Source.Errors)
	counter(ch, retriesMetric, s.Source.Retries)
	counter(ch, lossesMetric, s.Source.Losses)
	gauge(ch, reachableMetric, one(s.Source.Lost == ""))
	gauge(ch, healthyMetric, one(s.Source.Error == ""))
	view := c.agent.state.seen()
	gauge(ch, policiesMetric, float64(view.Policies()))
	gauge(ch, namedMetric, float64(view.Workloads()))
	gauge(ch, barredMetric, float64(view.Refused()))
	gauge(ch, workingMetric, one(s.Problem == ""))
	if s.Audit != nil {
		gauge(ch, diffMetric, float64(s.Audit.Differences))
		gauge(ch, auditErrMetric, one(s.Audit.Error != ""))
		counter(ch, repairedMetric, s.Audit.Repaired)
	}
}

func (c collector) pods(ch chan<- prometheus.Metric) {
	all, unknown, err := c.agent.pods.list()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(podsMetric, err)
		return
	}
	watched, older, ended := 0, 0, 0
	for _, p := range all {
		if p.Watched {
			watched++
		}
		older, ended = older+p.Older, ended+p.Ended
	}
	gauge(ch, olderMetric, float64(max(0, older-ended)), "left")
	gauge(ch, olderMetric, float64(ended), "ended")
	gauge(ch, podsMetric, float64(watched), "watched")
	gauge(ch, podsMetric, float64(len(all)-watched), "unwatched")
	gauge(ch, podsMetric, float64(unknown), "unknown")
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

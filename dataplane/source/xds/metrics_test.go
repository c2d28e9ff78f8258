package xds

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
)

// gathered are the values of all counters, by name and label.
func gathered(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	must(t, r.Register(m))
	families, err := r.Gather()
	must(t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, one := range f.Metric {
			name := f.GetName()
			for _, l := range one.Label {
				name += fmt.Sprintf("{%s=%s}", l.GetName(), l.GetValue())
			}
			all[name] = one.GetCounter().GetValue() + one.GetGauge().GetValue()
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	before := len(gathered(t, m))
	w := watch(t, adstest.Options{}, func(c *Config) { c.Metrics = m }, svc("web", "10.9.0.1"))
	w.begin()
	w.server.Change(addressType, these(wl("a", "127.0.0.1", nil), wl("b", "10.1.0.1", nil)))
	w.refused()
	all := gathered(t, m)
	for name, want := range map[string]float64{
		"duomesh_xds_connected":                                             1,
		"duomesh_xds_messages_total{url=" + addressType + "}":               2,
		"duomesh_xds_messages_total{url=" + authorizationType + "}":         1,
		"duomesh_xds_refused_resources_total{url=" + addressType + "}":      1,
		"duomesh_xds_connection_terminations_total{reason=unauthenticated}": 0,
	} {
		if got, there := all[name]; !there || got != want {
			t.Errorf("%s is %v (there: %t), want %v", name, got, there, want)
		}
	}
	w.server.Stop()
	w.until("the end", func(u Update) bool { return u.Err != nil && istiod.ReasonOf(u.Err) == istiod.Unreachable })
	all = gathered(t, m)
	if all["duomesh_xds_connected"] != 0 || all["duomesh_xds_connection_terminations_total{reason=unreachable}"] == 0 {
		t.Errorf("after the end: %v", all)
	}
	if len(all) != before {
		t.Errorf("%d metrics at the start, %d later: labels are not bounded", before, len(all))
	}
}

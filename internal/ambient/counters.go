package ambient

import (
	"bytes"
	"fmt"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Opened is a counter of connections, as a node proxy tells it.
type Opened struct {
	// Reporter is the side that counts: source or destination.
	Reporter string
	// Source and Destination are the identities of both ends as it knows them. A
	// source is what TLS has proved: without TLS it is Unknown.
	Source, Destination string
	// Security is mutual_tls, or unknown where nothing is encrypted.
	Security string
	Count    uint64
}

// Unknown is what a proxy says of what it does not know.
const Unknown = "unknown"

// The counter of ztunnel and of Istio's TCP telemetry.
const (
	OpenedMetric    = "istio_tcp_connections_opened_total"
	ReporterSource  = "source"
	ReporterDest    = "destination"
	SecurityMutual  = "mutual_tls"
	SecurityUnknown = Unknown
)

// Labels of it.
const (
	LabelReporter    = "reporter"
	LabelSource      = "source_principal"
	LabelDestination = "destination_principal"
	LabelSecurity    = "connection_security_policy"
)

func parseOpened(text []byte) ([]Opened, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	var all []Opened
	for _, m := range families[OpenedMetric].GetMetric() {
		all = append(all, Opened{
			Reporter: label(m, LabelReporter), Source: label(m, LabelSource), Destination: label(m, LabelDestination),
			Security: label(m, LabelSecurity), Count: uint64(value(m)),
		})
	}
	return all, nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// value is the number of a counter, which OpenMetrics text may leave untyped.
func value(m *dto.Metric) float64 {
	if m.GetCounter() != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetUntyped().GetValue()
}

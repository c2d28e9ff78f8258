package result

import (
	"time"

	"github.com/duomesh/duomesh/bench/plan"
)

// Reuse is many short connections of one pod to a number of services in turn. A
// redirect makes one destination of all of them, so that a source port which the
// kernel thinks is free towards one service may not be towards the proxy.
type Reuse struct {
	plan.Cell
	// Note is what a reader must know of the variant.
	Note string `json:"note,omitempty"`
	// Services is how many were asked in turn; 1 is the control.
	Services    int   `json:"services"`
	Connections int64 `json:"connections"`
	Errors      int   `json:"errors"`
	// P50 and P99 are microseconds of a connection with its request, Late is how
	// many took longer than LateAfter.
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	Late int     `json:"late"`
	// Repeated is how many segments the client's pod had to send again, Refused how
	// many met an earlier connection in TIME_WAIT (PAWSTimewait of the kernel).
	Repeated uint64 `json:"segments_sent_again"`
	Refused  uint64 `json:"met_time_wait"`
	// Reason is set when nothing was measured, and says why.
	Reason string `json:"reason,omitempty"`
}

// LateAfter is beyond anything that the way itself costs, and below the first
// retransmission of a SYN that the redirect's refusals lead to.
const LateAfter = 5 * time.Millisecond

// Split is a share that a weight declares and what came of it.
type Split struct {
	// Scenario is the name under which `duomesh verify` runs it.
	Scenario string `json:"scenario"`
	// Unit is what was counted: connections or requests.
	Unit string `json:"unit"`
	// Total were made, Count of them came to Pod; between Low and High are accepted
	// (exact binomial, two-sided).
	Pod   string  `json:"pod"`
	Total int     `json:"total"`
	Count int     `json:"count"`
	Share float64 `json:"share"`
	Low   int     `json:"low"`
	High  int     `json:"high"`
	// Reason is set when nothing was counted, and says why.
	Reason string `json:"reason,omitempty"`
}

// Found is the share that was found.
func (s Split) Found() float64 { return float64(s.Count) / float64(max(s.Total, 1)) }

package load

import (
	"time"

	"fortio.org/fortio/stats"
)

// The names by which a child knows what it is: its argv[0].
const (
	ClientName = "duomesh-bench-load"
	ServerName = "duomesh-bench-server"
)

// Canary begins every payload that is long enough. Whoever sees it on a wire sees
// the application's bytes in clear.
const Canary = "duomesh-canary-5d1f0c2e"

// Spec is what one client process does.
type Spec struct {
	// URL is what every request asks for.
	URL string `json:"url"`
	// PayloadBytes is the body of each POST.
	PayloadBytes int `json:"payload_bytes"`
	// Threads is the number of parallel connections.
	Threads int `json:"threads"`
	// PerSecond is the rate of all threads together, on a fixed schedule; 0
	// means a closed loop: the next request leaves when the last is answered.
	PerSecond float64 `json:"per_second,omitempty"`
	// KeepAlive keeps one connection per thread; clear means a new connection
	// for every request.
	KeepAlive bool          `json:"keep_alive"`
	Warmup    time.Duration `json:"warmup_ns"`
	Duration  time.Duration `json:"duration_ns"`
	// MaxProcs is GOMAXPROCS of the process.
	MaxProcs int `json:"max_procs"`
	// MaxCalls bounds the timed requests of all threads together: a client that makes
	// more has failed. 0 means no bound.
	MaxCalls int `json:"max_calls,omitempty"`
}

// Report is what a client process found, without the samples themselves.
type Report struct {
	Requests int `json:"requests"`
	// Errors are requests that were not answered by a 200.
	Errors int `json:"errors"`
	// Codes counts requests by HTTP status; -1 is a socket error.
	Codes map[int]int64 `json:"codes"`
	// Connections is how many sockets the timed part opened, its one greeting
	// request per thread included.
	Connections int64 `json:"connections"`
	// Slots is how many requests the schedule had room for, Missed how many of
	// them never left, Late how many left a whole slot or more after their
	// time. All are 0 in a closed loop.
	Slots  int `json:"slots,omitempty"`
	Missed int `json:"missed,omitempty"`
	Late   int `json:"late,omitempty"`
	// Elapsed is the time from the first request to the end of the last.
	Elapsed time.Duration `json:"elapsed_ns"`
	// ConnectSeconds is fortio's histogram of connect() times.
	ConnectSeconds *stats.HistogramData `json:"connect_seconds,omitempty"`
	// PacketsIn, PacketsOut and Retransmits are what the pod's links and TCP
	// counted while the timed part ran.
	PacketsIn   uint64 `json:"packets_in"`
	PacketsOut  uint64 `json:"packets_out"`
	Retransmits uint64 `json:"retransmits"`
	// TimeWaits is how many segments were refused in the pod's namespace because an
	// earlier connection with the same ports is in TIME_WAIT there; 0 where the
	// kernel does not count it.
	TimeWaits   uint64 `json:"time_waits,omitempty"`
	SampleBytes int    `json:"sample_bytes"`
	FortioBytes int    `json:"fortio_bytes"`
}

// ServerSpec is what one server process does.
type ServerSpec struct {
	// Port is where it listens, IPv4 and IPv6; 0 takes a free one.
	Port uint16 `json:"port"`
	// MaxProcs is GOMAXPROCS of the process.
	MaxProcs int `json:"max_procs"`
}

// Counts is what a server has seen since it started.
type Counts struct {
	// Port is the one that it listens on.
	Port        uint16 `json:"port"`
	Connections int64  `json:"connections"`
	Requests    int64  `json:"requests"`
}

// message is one line from a child.
type message struct {
	Event  string  `json:"event"`
	Error  string  `json:"error,omitempty"`
	Report *Report `json:"report,omitempty"`
	Counts *Counts `json:"counts,omitempty"`
}

// Words of the protocol.
const (
	eventWarm   = "warm"
	eventDone   = "done"
	eventReport = "report"
	eventReady  = "ready"
	eventCounts = "counts"
	eventError  = "error"
	askGo       = "go"
	askCollect  = "collect"
	askCount    = "count"
)

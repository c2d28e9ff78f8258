package result

import (
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// Summary is a run in figures. Times are microseconds.
type Summary struct {
	Schema      string        `json:"schema"`
	Version     int           `json:"version"`
	Started     time.Time     `json:"started"`
	Elapsed     time.Duration `json:"elapsed_ns"`
	Plan        plan.Plan     `json:"plan"`
	Environment Environment   `json:"environment"`
	// Complete is clear when the run ended before its time; Reason says why.
	Complete bool   `json:"complete"`
	Reason   string `json:"reason,omitempty"`
	// Blocks is the number of whole blocks, on which all effects stand.
	Blocks  int            `json:"blocks"`
	Noise   Noise          `json:"noise"`
	Groups  []Group        `json:"groups"`
	Targets []Target       `json:"targets"`
	Checks  []report.Check `json:"checks"`
	Counted []Counted      `json:"counted,omitempty"`
	Called  []Called       `json:"called,omitempty"`
	// Breakdowns, Connects, Reuse and Splits are of passes after the timed one.
	Breakdowns []Breakdown `json:"breakdowns,omitempty"`
	Connects   []Connects  `json:"connects,omitempty"`
	Reuse      []Reuse     `json:"port_reuse,omitempty"`
	Splits     []Split     `json:"splits,omitempty"`
	Proxies    []Proxy     `json:"proxies,omitempty"`
	// Verdict is the worst of Checks: whether the figures may be believed, not
	// whether they are good.
	Verdict report.Verdict `json:"verdict"`
}

// Noise is how quiet the machine was.
type Noise struct {
	Trials int `json:"trials"`
	// Repeated trials had too much foreign CPU and were made again; Kept ones
	// were too noisy at the last attempt as well, and count all the same.
	Repeated int `json:"repeated"`
	Kept     int `json:"kept_noisy"`
	// Disturbed are the kept trials with more foreign CPU than a valid run allows,
	// whatever the plan allows.
	Disturbed int `json:"disturbed"`
	// IdleBusy is the share of the machine that was busy before the first trial.
	IdleBusy float64 `json:"idle_busy"`
	// MedianForeign and MaxForeign are shares of the machine, StealShare is
	// over the whole timed pass; kept trials only.
	MedianForeign float64 `json:"median_foreign"`
	MaxForeign    float64 `json:"max_foreign"`
	StealShare    float64 `json:"steal_share"`
}

// NotAnswerable is what no run can say before there is encryption between nodes.
const NotAnswerable = "“30 % below Ambient at equal security with encryption” cannot be answered by this run: duomesh has no " +
	"encryption between nodes yet. The row of equal security is ztunnel-plain, where nothing is encrypted."

// MayBeChance is the probability (Effect.HolmP) from which on a difference is not
// called one.
const MayBeChance = 0.05

// Measure is how a latency is counted.
type Measure string

// The measures.
const (
	// Service: from when the request really left.
	Service Measure = "service"
	// Response: from when the schedule wanted it to leave. Fixed mode only.
	Response Measure = "response"
)

// Group is the variants of one placement, mode and measure.
type Group struct {
	Placement plan.Placement `json:"placement"`
	Mode      plan.Mode      `json:"mode"`
	Measure   Measure        `json:"measure"`
	// Floor is the A/A interval of the added p50; nil when direct-aa was not in
	// the run.
	Floor *stats.Interval `json:"floor_added_p50_us,omitempty"`
	Rows  []Row           `json:"rows"`
	// HandOff is duomesh-l7 against envoy-direct; nil when the run did not have both.
	HandOff *Effect `json:"handoff,omitempty"`
}

// Row is one variant. The latencies are medians over trials of the trial's own
// quantile.
type Row struct {
	Variant   plan.Variant `json:"variant"`
	Trials    int          `json:"trials"`
	Requests  int          `json:"requests"`
	Errors    int          `json:"errors"`
	Repeated  int          `json:"repeated"`
	Slots     int          `json:"slots,omitempty"`
	Missed    int          `json:"missed,omitempty"`
	Late      int          `json:"late,omitempty"`
	P50       float64      `json:"p50_us"`
	P90       float64      `json:"p90_us"`
	P99       float64      `json:"p99_us"`
	Mean      float64      `json:"mean_us"`
	PerSecond float64      `json:"per_second"`
	// Pooled is the distribution of all requests together, from an HDR
	// histogram with three digits.
	Pooled []Point `json:"pooled"`
	// ClientCPU and ServerCPU are microseconds per request; OtherCPU is the
	// rest of the busy machine.
	ClientCPU float64 `json:"client_cpu_us"`
	ServerCPU float64 `json:"server_cpu_us"`
	OtherCPU  float64 `json:"other_cpu_us"`
	// ProxyCPU is the same of each process between the pods, by its name.
	ProxyCPU map[string]float64 `json:"proxy_cpu_us,omitempty"`
	// Cost is the same for 1000 requests a second, with the memory of the proxies.
	Cost Cost `json:"per_1000_per_second"`
	// PacketsPerRequest is both directions at the client's link.
	PacketsPerRequest float64 `json:"packets_per_request"`
	Retransmits       uint64  `json:"retransmits"`
	// Effect is against direct; nil for direct itself.
	Effect *Effect `json:"effect,omitempty"`
	// Versus is against the rows of Ambient and of what stands in for it, as far
	// as the run has them.
	Versus []Versus `json:"versus,omitempty"`
	// Note is what a reader must know of the variant: that it is a stand-in, for
	// example. Factor is how much slower a stand-in is than what it stands in for.
	Note   string `json:"note,omitempty"`
	Factor string `json:"factor,omitempty"`
}

// Versus is a variant against another than direct, paired inside blocks.
type Versus struct {
	Base plan.Variant `json:"base"`
	// BaseNote is what a reader must know of the base: that it is a stand-in.
	BaseNote       string         `json:"base_note,omitempty"`
	AddedP50       stats.Interval `json:"added_p50_us"`
	RatioP50       stats.Interval `json:"ratio_p50"`
	RatioPerSecond stats.Interval `json:"ratio_per_second"`
	// RatioCPU is of pods and proxies together, per request.
	RatioCPU stats.Interval `json:"ratio_cpu"`
	// Share is the variant's part of what the base adds to direct at p50:
	// (variant − direct) / (base − direct). Nil where the base adds nothing that
	// is clear of zero: then there is nothing to have a share of.
	Share *stats.Interval `json:"share_p50,omitempty"`
}

// Point is one quantile of a distribution.
type Point struct {
	Quantile float64 `json:"q"`
	Micros   float64 `json:"us"`
	// Low and High are what the middle half of the trials have at this quantile;
	// 0 where a trial alone is too short to have it.
	Low  float64 `json:"low_us,omitempty"`
	High float64 `json:"high_us,omitempty"`
}

// Effect is what a variant adds to direct, paired inside blocks.
type Effect struct {
	AddedP50  stats.Interval `json:"added_p50_us"`
	AddedP90  stats.Interval `json:"added_p90_us"`
	AddedP99  stats.Interval `json:"added_p99_us"`
	AddedMean stats.Interval `json:"added_mean_us"`
	RatioP50  stats.Interval `json:"ratio_p50"`
	RatioP90  stats.Interval `json:"ratio_p90"`
	RatioP99  stats.Interval `json:"ratio_p99"`
	RatioMean stats.Interval `json:"ratio_mean"`
	// RatioPerSecond is throughput, RatioCPU the CPU of both pods and of what is
	// between them, per request.
	RatioPerSecond stats.Interval `json:"ratio_per_second"`
	RatioCPU       stats.Interval `json:"ratio_cpu"`
	// RatioMachine is the CPU of the whole machine per request, this program's
	// own left out.
	RatioMachine stats.Interval `json:"ratio_machine"`
	AddedCPU     stats.Interval `json:"added_cpu_us"`
	AddedPackets stats.Interval `json:"added_packets"`
	// P is the Mann-Whitney test on the p50 of trials, HolmP the same adjusted
	// for all comparisons of the run.
	P     float64 `json:"p"`
	HolmP float64 `json:"holm_p"`
	// Difference is the verdict on AddedP50 against the A/A floor.
	Difference stats.Difference `json:"difference"`
}

// Target is a number to reach.
type Target struct {
	Name string `json:"name"`
	// Limit is the target in words, Found what was measured.
	Limit string      `json:"limit"`
	Found string      `json:"found"`
	Reach stats.Reach `json:"reach"`
}

// NotRun is the reach of a target that this run did not measure; Found says why.
const NotRun stats.Reach = "NOT RUN"

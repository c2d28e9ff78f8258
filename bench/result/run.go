// Package result is what a benchmark run found: the facts as they were
// recorded, and the summary that follows from them and nothing else. A summary
// made again from the recorded facts is equal to the first.
package result

import (
	"fmt"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/report"
)

// The schemas of the lines of results.jsonl and of summary.json.
const (
	SchemaRun     = "duomesh.bench.run"
	SchemaTrial   = "duomesh.bench.trial"
	SchemaResumed = "duomesh.bench.resumed"
	SchemaEnd     = "duomesh.bench.end"
	SchemaSummary = "duomesh.bench.summary"
	Version       = 1
)

// Head is the first line of a run: what was meant, and where.
type Head struct {
	Schema      string      `json:"schema"`
	Version     int         `json:"version"`
	Started     time.Time   `json:"started"`
	Plan        plan.Plan   `json:"plan"`
	Environment Environment `json:"environment"`
}

// Environment is the machine and the build.
type Environment struct {
	Kernel      string `json:"kernel"`
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	Governor    string `json:"governor,omitempty"`
	Clocksource string `json:"clocksource"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Hypervisor  bool   `json:"hypervisor"`
	// LoadAverage is of the minute before the run.
	LoadAverage  string            `json:"load_average"`
	Congestion   string            `json:"tcp_congestion_control"`
	ConntrackMax string            `json:"conntrack_max,omitempty"`
	Go           string            `json:"go"`
	Revision     string            `json:"revision"`
	Modules      map[string]string `json:"modules"`
	Mitigations  map[string]string `json:"mitigations,omitempty"`
	Arch         string            `json:"arch"`
	// Programs are the foreign programs of the run: name, version and digest.
	Programs map[string]string `json:"programs,omitempty"`
}

// Trial is one client process against one server process: the unit of
// replication. It is one line.
type Trial struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	// Block and Order count from 1; Order is the place inside the block.
	Block int `json:"block"`
	Order int `json:"order"`
	plan.Cell
	// Attempt counts from 1. Kept is set on the one attempt that counts.
	Attempt int       `json:"attempt"`
	Kept    bool      `json:"kept"`
	Start   time.Time `json:"start"`
	// Wall is the measured span, a little longer than Client.Elapsed.
	Wall   time.Duration `json:"wall_ns"`
	Client load.Report   `json:"client"`
	// Server is what the server counted in the span.
	Server load.Counts `json:"server"`
	CPU    CPU         `json:"cpu"`
	// ProxyMemory is the resident memory of the same processes as CPU.Proxies at the
	// end of the span, bytes.
	ProxyMemory map[string]uint64 `json:"proxies_resident_bytes,omitempty"`
	// Redirected is how many connections the variant's own engine says it
	// redirected in the span; absent where no engine is involved.
	Redirected *uint64 `json:"redirected,omitempty"`
	// Otherwise is what the nodes' proxies counted in the span and not as the variant's:
	// connections by the side that counts, the ends and the security. Other pods' are
	// among them.
	Otherwise map[string]uint64 `json:"redirected_otherwise,omitempty"`
	// Samples and Fortio are files below the run's directory.
	Samples string `json:"samples"`
	Fortio  string `json:"fortio"`
	// Note is what a reader must know of the variant.
	Note string `json:"note,omitempty"`
}

// CPU is processor time in a trial's span.
type CPU struct {
	// Client and Server are the pods' cgroups: everything in them.
	Client time.Duration `json:"client_ns"`
	Server time.Duration `json:"server_ns"`
	// Proxies are the processes between the pods, each by its name and in a cgroup
	// of its own: node proxies, a waypoint's Envoy.
	Proxies map[string]time.Duration `json:"proxies_ns,omitempty"`
	// Harness is this program, which waits while a trial runs.
	Harness time.Duration `json:"harness_ns"`
	// Machine is all time in which a processor was not idle, the hypervisor's
	// steal included, which also stands alone.
	Machine time.Duration `json:"machine_ns"`
	Steal   time.Duration `json:"steal_ns"`
	// Cores is the number of processors.
	Cores int `json:"cores"`
}

// Between is the time of all proxies.
func (c CPU) Between() time.Duration {
	var sum time.Duration
	for _, d := range c.Proxies {
		sum += d
	}
	return sum
}

// Roles is the time of both pods and of all proxies.
func (c CPU) Roles() time.Duration { return c.Client + c.Server + c.Between() }

// Other is machine time that belongs to none of the roles.
func (c CPU) Other() time.Duration { return c.Machine - c.Roles() }

// Rest is the share of the whole machine that was busy for neither pods and
// proxies nor harness.
func (t Trial) Rest() float64 {
	total := t.Wall.Seconds() * float64(t.CPU.Cores)
	if total <= 0 {
		return 0
	}
	return max((t.CPU.Other()-t.CPU.Harness).Seconds()/total, 0)
}

// End is the last line of a run: how it ended, and what the passes after the
// timed one found.
type End struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	// Complete is clear when the run was stopped or failed; Reason says why.
	Complete bool          `json:"complete"`
	Reason   string        `json:"reason,omitempty"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	// IdleBusy is the share of the machine that was busy before the first trial,
	// when everything stood and nothing ran.
	IdleBusy float64        `json:"idle_busy"`
	Checks   []report.Check `json:"checks,omitempty"`
	Counted  []Counted      `json:"counted,omitempty"`
	Called   []Called       `json:"called,omitempty"`
	// Breakdowns are where the time of requests went, Connects how connections came
	// to stand.
	Breakdowns []Breakdown `json:"breakdowns,omitempty"`
	Connects   []Connects  `json:"connects,omitempty"`
	// Reuse is many short connections of one pod to several services.
	Reuse []Reuse `json:"port_reuse,omitempty"`
	// Splits are shares of requests that a weight declares.
	Splits []Split `json:"splits,omitempty"`
	// Proxies are the node proxies and waypoints that ran, as they describe themselves.
	Proxies []Proxy `json:"proxies,omitempty"`
}

// Annotate writes beside everything that a stand-in did that it is one.
func (e *End) Annotate() {
	for i := range e.Breakdowns {
		e.Breakdowns[i].Note = e.Breakdowns[i].Variant.Traits().StandIn
	}
	for i := range e.Connects {
		e.Connects[i].Note = e.Connects[i].Variant.Traits().StandIn
	}
	for i := range e.Reuse {
		e.Reuse[i].Note = e.Reuse[i].Variant.Traits().StandIn
	}
	for i := range e.Called {
		e.Called[i].Note = e.Called[i].Variant.Traits().StandIn
	}
	for i := range e.Proxies {
		e.Proxies[i].Note = e.Proxies[i].Variant.Traits().StandIn
	}
}

// Proxy is a node proxy, or a waypoint, and the settings that its cost depends on.
type Proxy struct {
	Variant plan.Variant `json:"variant"`
	// Note is what a reader must know of the variant.
	Note string `json:"note,omitempty"`
	// Program is the name and version that the program itself gives.
	Program string `json:"program"`
	// Workers is the number of threads that carry traffic.
	Workers int `json:"workers"`
	// AccessLog says whether it wrote a line per connection, as it does by default.
	AccessLog bool `json:"access_log"`
	// ResidentBytes is the memory of each process at the end of the timed pass, by
	// its node, or by its program where a pod has several.
	ResidentBytes map[string]uint64 `json:"resident_bytes,omitempty"`
}

// Called is how often both pods together called the kernel about their sockets
// and files over one trial, connecting included, and were not told to wait
// (EAGAIN).
type Called struct {
	plan.Cell
	// Note is what a reader must know of the variant.
	Note     string `json:"note,omitempty"`
	Requests int64  `json:"requests"`
	// Calls counts by the name of the system call.
	Calls map[string]uint64 `json:"calls,omitempty"`
	// Reason is set when nothing was counted, and says why.
	Reason string `json:"reason,omitempty"`
}

// PerRequest is the number of system calls per request, 0 without requests.
func (c Called) PerRequest() float64 {
	var sum uint64
	for _, n := range c.Calls {
		sum += n
	}
	if c.Requests == 0 {
		return 0
	}
	return float64(sum) / float64(c.Requests)
}

// Counted is the kernel's own statistics of the mesh programs over one trial of
// the counted pass.
type Counted struct {
	plan.Cell
	Requests    int64 `json:"requests"`
	Connections int64 `json:"connections"`
	// Setup is what ran until the connections stood, Steady what ran after; a
	// mode that connects all the time has all of it in Steady.
	Setup  Programs `json:"setup"`
	Steady Programs `json:"steady"`
	// Reason is set when nothing was counted, and says why.
	Reason string `json:"reason,omitempty"`
}

// Programs is the work of BPF programs.
type Programs struct {
	Runs uint64        `json:"runs"`
	Time time.Duration `json:"time_ns"`
}

// Sub returns the work since an earlier reading.
func (p Programs) Sub(before Programs) Programs {
	return Programs{p.Runs - before.Runs, p.Time - before.Time}
}

// Resumed says that a run was interrupted, and went on from here.
type Resumed struct {
	Schema  string    `json:"schema"`
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	// Elapsed is what the run had taken until it was interrupted.
	Elapsed time.Duration `json:"elapsed_ns"`
}

// Run is all recorded facts.
type Run struct {
	Head    Head
	Trials  []Trial
	Resumed []Resumed
	// End is nil while a run is going on, or when it was killed.
	End *End
	// Samples returns the requests of a trial.
	Samples func(Trial) ([]load.Sample, error)
}

// Blocks is the number of blocks in which every cell has a kept trial.
func (r Run) Blocks() int { return len(wholeBlocks(r)) }

// Elapsed is what the run has taken so far, without the time in which nobody went on
// with it.
func (r Run) Elapsed() time.Duration {
	if r.End != nil {
		return r.End.Elapsed
	}
	began, before := r.Head.Started, time.Duration(0)
	if n := len(r.Resumed); n > 0 {
		began, before = r.Resumed[n-1].At, r.Resumed[n-1].Elapsed
	}
	if len(r.Trials) == 0 {
		return before
	}
	last := r.Trials[len(r.Trials)-1]
	return before + max(last.Start.Add(last.Wall).Sub(began), 0)
}

// String names the trial for messages.
func (t Trial) String() string {
	return fmt.Sprintf("block %d %s attempt %d", t.Block, t.Cell, t.Attempt)
}

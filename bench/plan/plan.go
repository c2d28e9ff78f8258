// Package plan says what a benchmark run compares: variants, load modes,
// placements, the load itself, and the order in which everything is tried.
package plan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/duomesh/duomesh/bench/load"
)

// Mode is a form of load.
type Mode string

// The modes.
const (
	// Fixed: one kept connection, requests leave on a fixed schedule.
	Fixed Mode = "fixed"
	// Closed: one kept connection, the next request leaves when the last is answered.
	Closed Mode = "closed"
	// Saturation: many kept connections in closed loops, which fill the machine.
	Saturation Mode = "saturation"
	// NewConn: one closed loop, a new connection for every request.
	NewConn Mode = "newconn"
	// Think250 and Think1000 are Closed where the server takes 250 µs and 1 ms
	// to answer, as a server that does something would.
	Think250  Mode = "closed-250us"
	Think1000 Mode = "closed-1ms"
)

// Modes returns all of them, in the order of a table.
func Modes() []Mode { return []Mode{Fixed, Closed, Think250, Think1000, Saturation, NewConn} }

// Think is how long the server waits before it answers.
func (m Mode) Think() time.Duration {
	switch m {
	case Think250:
		return 250 * time.Microsecond
	case Think1000:
		return time.Millisecond
	}
	return 0
}

// Words say what a mode does.
func (m Mode) Words(l Load) string {
	switch m {
	case Fixed:
		return fmt.Sprintf("%g requests a second on a fixed schedule, one kept connection", l.PerSecond)
	case Closed:
		return "one kept connection, the next request when the last is answered"
	case Think250, Think1000:
		return fmt.Sprintf("one kept connection, and a server that takes %v to answer", m.Think())
	case Saturation:
		return fmt.Sprintf("%d kept connections as fast as they can", l.Connections)
	case NewConn:
		return "a new connection for every request, one at a time"
	}
	return string(m)
}

// KeepAlive says whether a mode keeps its connections.
func (m Mode) KeepAlive() bool { return m != NewConn }

// World is a kind of place for pods.
type World string

// Kubernetes: pods of a cluster whose nodes are on this machine, with its own
// kube-proxy, istiod and agents.
const Kubernetes World = "kubernetes"

// Words say for people where pods are.
func (w World) Words() string {
	if w == Kubernetes {
		return "pods of a Kubernetes cluster on this machine"
	}
	return "simulated pods"
}

// Placement says where client and server are.
type Placement string

// The placements.
const (
	// Cross: on two nodes, with a link between them.
	Cross Placement = "cross"
	// Same: on one node.
	Same Placement = "same"
)

// Cell is one entry of the matrix.
type Cell struct {
	Placement Placement `json:"placement"`
	Mode      Mode      `json:"mode"`
	Variant   Variant   `json:"variant"`
}

// String returns the cell as a path, fit for file and benchmark names.
func (c Cell) String() string {
	return fmt.Sprintf("%s/%s/%s", c.Placement, c.Mode, c.Variant)
}

// Load is what is asked and answered.
type Load struct {
	PayloadBytes int `json:"payload_bytes"`
	ReplyBytes   int `json:"reply_bytes"`
	// PerSecond is the rate of the fixed mode.
	PerSecond float64 `json:"per_second"`
	// Connections is the number of loops of the saturation mode.
	Connections int `json:"connections"`
	// MaxProcs is GOMAXPROCS of client and server.
	MaxProcs int `json:"max_procs"`
}

// Plan is a whole run. Default returns the one that is meant.
type Plan struct {
	// World says where the pods are: empty for simulated clusters of this machine.
	World    World     `json:"world,omitempty"`
	Variants []Variant `json:"variants"`
	// Absent are variants that were wanted and cannot run here.
	Absent     []Absent    `json:"absent,omitempty"`
	Modes      []Mode      `json:"modes"`
	Placements []Placement `json:"placements"`
	Load       Load        `json:"load"`
	// Warmup is thrown away before Duration is measured, in every trial.
	Warmup   time.Duration `json:"warmup_ns"`
	Duration time.Duration `json:"duration_ns"`
	// Seed drives the order of trials and the resampling of statistics.
	Seed uint64 `json:"seed"`
	// Blocks is the number of blocks; 0 means as many as fit into Budget, at
	// least MinBlocks.
	Blocks    int           `json:"blocks,omitempty"`
	MinBlocks int           `json:"min_blocks"`
	Budget    time.Duration `json:"budget_ns"`
	// ForeignLimit is the share of the machine that others may use during a
	// trial before it is repeated, Repeats times at most.
	ForeignLimit float64 `json:"foreign_limit"`
	Repeats      int     `json:"repeats"`
	// Patience is how long a trial may go on beyond twice its time before its
	// processes are ended and it has failed.
	Patience time.Duration `json:"patience_ns"`
	// UntilShown ends the run before its budget, when no target is undecided any
	// more.
	UntilShown bool `json:"until_shown,omitempty"`
	// Splits runs the scenarios of shares after the timed pass.
	Splits bool `json:"splits,omitempty"`
	// Handicap is a delay that a variant is given on purpose, to see that it is found:
	// a run that has one is no result.
	Handicap *Handicap `json:"handicap,omitempty"`
}

// Handicap is a known effect.
type Handicap struct {
	Variant Variant       `json:"variant"`
	Delay   time.Duration `json:"delay_ns"`
}

// Default is the comparison of `make bench` where there is an Envoy and a ztunnel.
// What a machine lacks, Without takes out.
func Default() Plan {
	return Plan{
		Variants:     []Variant{Direct, DirectAA, DNAT, L4, L7, EnvoyDirect, Ztunnel, ZtunnelPlain, ZtunnelWaypoint},
		Modes:        []Mode{Fixed, Closed, Saturation, NewConn},
		Placements:   []Placement{Cross},
		Load:         Load{PayloadBytes: 128, ReplyBytes: 1024, PerSecond: 500, Connections: 16, MaxProcs: 2},
		Warmup:       250 * time.Millisecond,
		Duration:     time.Second,
		MinBlocks:    6,
		Budget:       7 * time.Minute,
		ForeignLimit: 0.05,
		Repeats:      2,
		Patience:     30 * time.Second,
		Splits:       true,
	}
}

// Full is the plan with every variant, mode and placement, and more blocks.
func (p Plan) Full() Plan {
	p.Variants, p.Modes = Variants(), Modes()
	p.Placements = []Placement{Cross, Same}
	p.Budget, p.MinBlocks = longBudget, claimBlocks
	return p
}

// Claims is the plan with the rows that have targets, until each is decided.
func (p Plan) Claims() Plan {
	p.Variants, p.Modes = []Variant{Direct, DirectAA, L4, L7, EnvoyDirect, Ztunnel, ZtunnelPlain, ZtunnelWaypoint}, Modes()
	p.Budget, p.MinBlocks, p.UntilShown = longBudget, claimBlocks, true
	return p
}

const (
	longBudget  = 40 * time.Minute
	claimBlocks = 10
)

// Validate returns everything that is wrong with the plan.
func (p Plan) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	errs = append(errs,
		known("variant", p.Variants, Variants()),
		known("mode", p.Modes, Modes()),
		known("placement", p.Placements, []Placement{Cross, Same}))
	if !slices.Contains(p.Variants, Direct) {
		fail("variants: %s is missing: every effect is taken against it", Direct)
	}
	if p.Duration <= 0 || p.Warmup < 0 {
		fail("duration %v and warm-up %v: the first must be above zero, the second not below", p.Duration, p.Warmup)
	}
	if p.Blocks < 0 || p.MinBlocks < 1 || p.Blocks == 0 && p.Budget <= 0 {
		fail("blocks %d, least %d, budget %v: must be above zero", p.Blocks, p.MinBlocks, p.Budget)
	}
	if p.Warmup > time.Minute || p.Duration > time.Hour {
		fail("warm-up %v and duration %v: at most a minute and an hour", p.Warmup, p.Duration)
	}
	if whole := p.least(); whole > maxWhole || p.Budget > maxWhole {
		fail("%d trials of %v, budget %v: at most %v altogether", max(p.Blocks, p.MinBlocks)*p.Cells(), p.Warmup+p.Duration, p.Budget, maxWhole)
	}
	if !(p.ForeignLimit >= 0 && p.ForeignLimit <= 1) || p.Repeats < 0 {
		fail("foreign limit %g and repeats %d: the first must be between 0 and 1, the second not below 0", p.ForeignLimit, p.Repeats)
	}
	if p.Patience <= 0 || p.Patience > time.Hour {
		fail("patience %v: must be above zero, and at most an hour", p.Patience)
	}
	if h := p.Handicap; h != nil && (!slices.Contains(p.Variants, h.Variant) || h.Delay <= 0 || h.Delay > maxHandicap) {
		fail("handicap %s=%v: must be a variant of the run, and above 0 to %v", h.Variant, h.Delay, maxHandicap)
	}
	errs = append(errs, p.Load.validate(p.Duration))
	return errors.Join(errs...)
}

// Limit is when a trial that has not ended is ended.
func (p Plan) Limit() time.Duration { return 2*(p.Warmup+p.Duration) + p.Patience }

// maxWhole bounds a run.
const maxWhole = 12 * time.Hour

// least is the time that the trials of a plan take, repeats and starts left out.
func (p Plan) least() time.Duration {
	blocks := p.Blocks
	if blocks == 0 {
		blocks = p.MinBlocks
	}
	each := max(p.Warmup+p.Duration, 1)
	if trials := float64(blocks) * float64(p.Cells()); trials*float64(each) > float64(maxWhole) {
		return maxWhole + 1
	}
	return time.Duration(blocks*p.Cells()) * each
}

func (l Load) validate(d time.Duration) error {
	switch {
	case l.PayloadBytes < 1 || l.ReplyBytes < 1:
		return fmt.Errorf("payload %d and reply %d bytes: must be above zero", l.PayloadBytes, l.ReplyBytes)
	case l.ReplyBytes > maxReply:
		return fmt.Errorf("reply %d bytes: at most %d", l.ReplyBytes, maxReply)
	case l.Connections < 1 || l.MaxProcs < 1:
		return fmt.Errorf("connections %d and processors %d: must be above zero", l.Connections, l.MaxProcs)
	case l.PayloadBytes > maxPayload || l.Connections > maxClients || l.MaxProcs > maxClients:
		return fmt.Errorf("payload %d bytes, connections %d, processors %d: at most %d, %d and %d",
			l.PayloadBytes, l.Connections, l.MaxProcs, maxPayload, maxClients, maxClients)
	case !(l.PerSecond <= maxRate): // also what is not a number
		return fmt.Errorf("rate %g per second: at most %g", l.PerSecond, float64(maxRate))
	case l.PerSecond*d.Seconds() > maxCalls:
		return fmt.Errorf("rate %g per second for %v: at most %d requests in a trial", l.PerSecond, d, int(maxCalls))
	case !(l.PerSecond*d.Seconds() >= 2):
		return fmt.Errorf("rate %g per second for %v: fewer than two requests", l.PerSecond, d)
	}
	return nil
}

// maxReply is the largest reply that fortio's client takes whole (its buffer is
// 128 KiB, headers included).
const maxReply = 120 << 10

// The bounds of what one machine is asked to do.
const (
	maxPayload = 16 << 20
	maxClients = 4096
	maxRate    = 1e6
	// maxCalls is in one trial. A closed loop that makes more fails it.
	maxCalls = 20e6
)

// maxHandicap is what the kernel may spin for in one packet.
const maxHandicap = time.Millisecond

func known[T ~string](what string, given, all []T) error {
	if len(given) == 0 {
		return fmt.Errorf("%ss: none given", what)
	}
	for i, g := range given {
		if !slices.Contains(all, g) {
			return fmt.Errorf("unknown %s %q; there are: %s", what, g, join(all))
		}
		if slices.Contains(given[:i], g) {
			return fmt.Errorf("%s %s: given twice", what, g)
		}
	}
	return nil
}

func join[T ~string](all []T) string {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = string(a)
	}
	return strings.Join(names, ", ")
}

// Cells is the number of trials of one block.
func (p Plan) Cells() int { return len(p.Variants) * len(p.Modes) * len(p.Placements) }

// Block returns the trials of block n (from 1) in the order in which they run.
// Modes are shuffled, and variants inside a mode: the trials that are compared
// with each other stand close together in time.
func (p Plan) Block(n int) []Cell {
	r := rand.New(rand.NewPCG(p.Seed, uint64(n)))
	var groups []Cell
	for _, place := range p.Placements {
		for _, mode := range p.Modes {
			groups = append(groups, Cell{Placement: place, Mode: mode})
		}
	}
	r.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	var cells []Cell
	for _, g := range groups {
		for _, i := range r.Perm(len(p.Variants)) {
			g.Variant = p.Variants[i]
			cells = append(cells, g)
		}
	}
	return cells
}

// Spec returns what the client of a mode does; the address is host:port.
func (p Plan) Spec(m Mode, address string) load.Spec {
	s := load.Spec{
		URL:          fmt.Sprintf("http://%s/?size=%d%s", address, p.Load.ReplyBytes, delay(m.Think())),
		PayloadBytes: p.Load.PayloadBytes,
		Threads:      1,
		KeepAlive:    m.KeepAlive(),
		Warmup:       p.Warmup,
		Duration:     p.Duration,
		MaxProcs:     p.Load.MaxProcs,
		MaxCalls:     maxCalls,
	}
	switch m {
	case Fixed:
		s.PerSecond = p.Load.PerSecond
	case Saturation:
		s.Threads = p.Load.Connections
	}
	return s
}

// delay asks fortio's server to wait.
func delay(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("&delay=%dus", d.Microseconds())
}

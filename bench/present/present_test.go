package present

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/perf/benchfmt"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

func summary() result.Summary {
	effect := func(added float64, d stats.Difference) *result.Effect {
		around := stats.Interval{Estimate: added, Low: added - 2, High: added + 2}
		return &result.Effect{AddedP50: around, RatioP50: stats.Interval{Estimate: 1.07, Low: 1.01, High: 1.13}, Difference: d, HolmP: 0.012}
	}
	g := result.Group{Placement: plan.Cross, Mode: plan.Closed, Measure: result.Service, Rows: []result.Row{
		{Variant: plan.Direct, Requests: 9000, P50: 103.4},
		{Variant: plan.DirectAA, Requests: 9001, P50: 104, Effect: effect(0.6, stats.NoDifference)},
		{Variant: plan.DNAT, Requests: 8000, P50: 111, Effect: effect(7.5, stats.Higher)},
		{Variant: plan.L4, Requests: 9002, P50: 103, Effect: effect(-0.4, stats.NoDifference)},
	}}
	g.Rows[2].Cost = result.Cost{ClientCores: 0.1, ServerCores: 0.2, ProxyCores: 0.034, OtherCores: 0.01, ProxyMemory: 41.5e6, ProxyMemoryPer1000: 83e6}
	return result.Summary{
		Plan: plan.Default(), Proxies: []result.Proxy{{Variant: plan.L7, Program: "Envoy 1.2", Workers: 2, ResidentBytes: map[string]uint64{"envoy": 61e6}}}, Complete: true, Verdict: report.Pass, Groups: []result.Group{g},
		Targets: []result.Target{{Name: "closed: p50", Limit: "0.95…1.05", Found: "1.00", Reach: stats.Reached}},
		Checks:  []report.Check{report.Checkf("every request was answered by 200", true, "0 of 9 were not")},
	}
}

func textOf(t *testing.T, s result.Summary) string {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, s, "out/bench/x"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTextSaysIt(t *testing.T) {
	got := textOf(t, summary())
	if first := strings.Join(strings.SplitN(got, "\n", 3)[:2], " "); !strings.Contains(first, "verdict: valid") || !strings.Contains(first, "cannot be answered by this run") {
		t.Errorf("the first words are %q", first)
	}
	for _, want := range []string{
		"plaintext", "closed: one kept connection", "+7.5 [+5.5, +9.5]", "slower (p 0.012)", "no difference detected",
		"the noise floor", "A/A floor: direct against itself: p50 +0.6 [-1.4, +2.6] µs",
		"1000 requests a second", "0.344", "41.5", "83.0", "Envoy 1.2; 2 worker threads; access log off; memory of envoy 61.0 MB",
		"reached", "0 of 9 were not", "files: out/bench/x", "verdict: valid",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

// A difference that may be chance is not called one.
func TestTextDoesNotContradictItsOwnP(t *testing.T) {
	s := summary()
	for i := range s.Groups[0].Rows {
		if e := s.Groups[0].Rows[i].Effect; e != nil {
			e.HolmP = 1
		}
	}
	if got := textOf(t, s); strings.Contains(got, "slower (p") || !strings.Contains(got, "undecided: outside the noise, but by too few trials (p 1)") {
		t.Errorf("got:\n%s", got)
	}
}

// TestTextSaysWhatThePassesFound, and says nothing of passes that were not made.
func TestTextSaysWhatThePassesFound(t *testing.T) {
	s := summary()
	if got := textOf(t, s); strings.Contains(got, "followed") || strings.Contains(got, "TIME_WAIT") {
		t.Errorf("tables of passes that were not made:\n%s", got)
	}
	cell := plan.Cell{Placement: plan.Cross, Mode: plan.NewConn, Variant: plan.Ztunnel}
	s.Breakdowns = []result.Breakdown{
		{Cell: cell, Requests: 90, P50: 996, Hops: 2, Work: []result.Work{{Calls: 60, Switches: 31.5}, {Calls: 40}}, Parts: []result.Part{{What: result.PartKernel, Micros: 700}}},
		{Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: plan.L4}, Reason: "no tracepoints"},
	}
	s.Connects = []result.Connects{{Cell: cell, Connections: 80, Decided: 4, Established: 35, Handshakes: 2}}
	s.Reuse = []result.Reuse{{Cell: cell, Services: 16, Connections: 3000, P99: 12345, Refused: 148}}
	got := textOf(t, s)
	for _, want := range []string{
		"cross/newconn/ztunnel", "100.0", "31.5", "0/700/0/0", "NOT RUN: no tracepoints", "none: it stays in the pod", "2 of 80 connections", "12345", "148",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestVerdictLines(t *testing.T) {
	s := summary()
	s.Complete, s.Reason, s.Verdict = false, "stopped before its end", report.Inconclusive
	if got := textOf(t, s); !strings.Contains(got, "INCOMPLETE: stopped before its end") {
		t.Error("an incomplete run does not say so")
	}
	s = summary()
	s.Verdict = report.Fail
	s.Checks = append(s.Checks, report.Checkf("judge: x", false, "one leak"))
	if got := textOf(t, s); !strings.Contains(got, "NOT VALID: judge: x (one leak)") {
		t.Error("an invalid run does not say why")
	}
	s.Groups[0].Rows = s.Groups[0].Rows[:1]
	if got := textOf(t, s); !strings.Contains(got, "A/A floor: not measured") {
		t.Error("a missing floor is not named")
	}
}

func TestMarkdownHasTables(t *testing.T) {
	var b bytes.Buffer
	if err := Markdown(&b, summary(), "x"); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "| --- |") && !strings.Contains(got, "| ---:|") || !strings.Contains(got, "## Validity") {
		t.Errorf("no Markdown table in:\n%s", got)
	}
}

func TestJSONHasSchema(t *testing.T) {
	s := summary()
	s.Schema, s.Version = result.SchemaSummary, result.Version
	var b bytes.Buffer
	if err := JSON(&b, s); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema  string
		Version int
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got.Schema != "duomesh.bench.summary" || got.Version != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestBenchstatCanReadIt reads the lines back with benchstat's own reader.
func TestBenchstatCanReadIt(t *testing.T) {
	trial := result.Trial{
		Kept: true, Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: plan.L4},
		Client: load.Report{Requests: 2, Elapsed: time.Second}, Server: load.Counts{Requests: 2},
		CPU: result.CPU{Client: 3 * time.Microsecond, Server: time.Microsecond},
	}
	repeated := trial
	repeated.Kept = false
	r := result.Run{Trials: []result.Trial{repeated, trial}, Samples: func(result.Trial) ([]load.Sample, error) {
		return []load.Sample{{Latency: time.Microsecond, Code: 200}, {Latency: 3 * time.Microsecond, Code: 200}}, nil
	}}
	var b bytes.Buffer
	if err := Benchstat(&b, r); err != nil {
		t.Fatal(err)
	}
	in := benchfmt.NewReader(&b, "bench.txt")
	lines := 0
	for in.Scan() {
		rec, ok := in.Result().(*benchfmt.Result)
		if !ok {
			t.Fatalf("not a result: %v", in.Result())
		}
		lines++
		// benchstat turns nanoseconds into seconds where it knows the unit.
		p50, _ := rec.Value("p50-sec")
		cpu, _ := rec.Value("cpu-sec/req")
		if string(rec.Name) != "HTTP/placement=cross/mode=closed/variant=duomesh-l4" ||
			math.Abs(p50-1e-6) > 1e-12 || math.Abs(cpu-2e-6) > 1e-12 {
			t.Errorf("%s: %+v", rec.Name, rec.Values)
		}
	}
	if err := in.Err(); err != nil || lines != 1 {
		t.Errorf("%d lines, %v", lines, err)
	}
}

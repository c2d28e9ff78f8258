package page

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/report"
)

// slow is what each variant adds to direct's 100 µs, in shares of it.
var slow = map[plan.Variant]float64{
	plan.DNAT: 0.10, plan.L4: 0.01, plan.Ztunnel: 3, plan.ZtunnelPlain: 2.5, plan.HBONERef: 3.6, plan.TCPRedirect: 2.2,
}

// made is a whole run of a machine that does not exist.
func made(t *testing.T, p plan.Plan) result.Summary {
	t.Helper()
	p.Seed, p.MinBlocks = 7, 6
	r := result.Run{
		Head: result.Head{Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Plan: p, Environment: result.Environment{
			Kernel: "6.1.0", CPU: "A Processor <fast>", Cores: 2, Go: "go1.26", Revision: "abc", Clocksource: "tsc", MemoryBytes: 8 << 30, Arch: "amd64",
			Programs: map[string]string{"Envoy": "1.2, sha256 abc"},
		}},
		End: &result.End{Complete: true, Proxies: []result.Proxy{{
			Variant: plan.Ztunnel, Program: "ztunnel 1.31", Workers: 2, AccessLog: true, ResidentBytes: map[string]uint64{"a": 20e6, "b": 21e6},
		}}},
	}
	looked(r.End)
	for b := 1; b <= 8; b++ {
		for i, c := range p.Block(b) {
			r.Trials = append(r.Trials, trial(b, i+1, c))
		}
	}
	r.Samples = samples
	s, err := result.Summarise(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// looked is what the passes after the timed one found on that machine.
func looked(end *result.End) {
	cell := func(v plan.Variant) plan.Cell {
		return plan.Cell{Placement: plan.Cross, Mode: plan.Closed, Variant: v}
	}
	end.Breakdowns = []result.Breakdown{
		{Cell: cell(plan.Direct), Reason: "this <kernel> has no tracepoints"},
		{
			Cell: cell(plan.Ztunnel), Requests: 900, P50: 400, Hops: 2,
			Parts:   []result.Part{{Role: "client", What: result.PartUser, Micros: 10}, {Role: "node proxy a", What: result.PartKernel, Micros: 290}, {What: result.PartQueue, Micros: 100}},
			Path:    []result.Step{{Role: "node proxy a", What: "reads", At: 120, Woken: 80, Ran: 100, Seen: 1}, {Role: "client", What: "has the answer", At: 400, Seen: 1}},
			Work:    []result.Work{{Role: "client", Calls: 4, Switches: 2}, {Role: "node proxy a", Calls: 9, Switches: 5, BytesRead: 1200}},
			Packets: []result.Packets{{Pod: "client-a", Loopback: 4, Link: 2}},
		},
	}
	end.Connects = []result.Connects{{Cell: cell(plan.Ztunnel), Connections: 100, Decided: 4, Established: 35, Handshakes: 1}}
	end.Reuse = []result.Reuse{{Cell: cell(plan.Ztunnel), Services: 16, Connections: 3000, P50: 900, P99: 12000, Late: 148, Refused: 148, Repeated: 148}}
	end.Splits = []result.Split{{Scenario: "l7/weight/90-10", Unit: "requests", Pod: "v2", Total: 8000, Count: 812, Share: 0.1, Low: 670, High: 935}}
}

func trial(block, order int, c plan.Cell) result.Trial {
	f := time.Duration(100 * (1 + slow[c.Variant]/3))
	t := result.Trial{
		Block: block, Order: order, Cell: c, Attempt: 1, Kept: true, Wall: time.Second,
		Client: load.Report{Requests: 600, Connections: 1, Elapsed: time.Second, PacketsIn: 601, PacketsOut: 601},
		Server: load.Counts{Requests: 600, Connections: 1},
		CPU:    result.CPU{Client: 600 * f * time.Microsecond / 2, Server: 600 * f * time.Microsecond / 2, Cores: 2},
	}
	n := uint64(1)
	if c.Variant == plan.L4 || c.Variant.Traits().Redirect {
		t.Redirected = &n
	}
	if c.Variant.Traits().Redirect {
		t.CPU.Proxies = map[string]time.Duration{"proxy a": 60 * time.Millisecond, "proxy b": 50 * time.Millisecond}
		t.ProxyMemory = map[string]uint64{"proxy a": 20e6, "proxy b": 22e6}
	}
	if c.Mode == plan.Fixed {
		t.Client.Slots = 600
	}
	t.CPU.Machine = t.CPU.Client + t.CPU.Server + t.CPU.Between() + 20*time.Millisecond
	return t
}

func samples(t result.Trial) ([]load.Sample, error) {
	rng := rand.New(rand.NewPCG(uint64(t.Block), uint64(t.Order)))
	middle := 100e3 * (1 + slow[t.Variant]) * math.Exp(0.04*rng.NormFloat64())
	all := make([]load.Sample, t.Client.Requests)
	for i := range all {
		at := time.Duration(i) * 2 * time.Millisecond
		all[i] = load.Sample{
			Iteration: i, Intended: at, Start: at + 40*time.Microsecond, Code: 200,
			Latency: time.Duration(middle * math.Exp(0.25*rng.NormFloat64()+0.15*rng.ExpFloat64())),
		}
	}
	return all, nil
}

// whole is a run with every row; made once, because resampling takes its time.
func whole(t *testing.T) result.Summary {
	t.Helper()
	wholeOnce.Do(func() { wholeRun = made(t, ambient()) })
	return wholeRun
}

var (
	wholeOnce sync.Once
	wholeRun  result.Summary
)

func ambient() plan.Plan {
	p := plan.Default()
	p.Variants = []plan.Variant{plan.Direct, plan.DirectAA, plan.DNAT, plan.L4, plan.Ztunnel, plan.ZtunnelPlain, plan.HBONERef}
	return p
}

func render(t *testing.T, s result.Summary) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s, "20260102T030405.000Z"); err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("DUOMESH_PAGE_OUT"); dir != "" { // to look at it
		if err := os.WriteFile(filepath.Join(dir, t.Name()+".html"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestPageStandsAlone: nothing is fetched, every link leads to something, and
// scripts and data are whole.
func TestPageStandsAlone(t *testing.T) {
	got := render(t, whole(t))
	ids, links := map[string]bool{}, []string{}
	tree, err := html.Parse(strings.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	for n := range tree.Descendants() {
		for _, a := range n.Attr {
			switch a.Key {
			case "id":
				if ids[a.Val] {
					t.Errorf("id %q is given twice", a.Val)
				}
				ids[a.Val] = true
			case "src", "srcset", "poster", "action":
				t.Errorf("<%s %s=%q> is fetched", n.Data, a.Key, a.Val)
			case "href":
				links = append(links, a.Val)
			}
		}
	}
	for _, l := range links {
		if id, inside := strings.CutPrefix(l, "#"); l != "data:," && (!inside || !ids[id]) {
			t.Errorf("link to %q leads nowhere in the page", l)
		}
	}
	for _, bad := range []string{"@import", "url(", "fetch(", "XMLHttpRequest", "ZgotmplZ", "%!", "NaN", "<no value>"} {
		// A pattern of the same page is no other file.
		if page := strings.ReplaceAll(withoutUplot(got), "url(#kernel)", ""); strings.Contains(page, bad) {
			t.Errorf("the page holds %q: %s", bad, around(page, bad))
		}
	}
	if !strings.Contains(got, "Copyright (c) 2022 Leon Sorokin") {
		t.Error("uPlot goes without its licence")
	}
	requireCharts(t, got)
}

func requireCharts(t *testing.T, page string) {
	t.Helper()
	m := regexp.MustCompile(`const charts = (\[.*\]);`).FindStringSubmatch(page)
	if m == nil {
		t.Fatal("no data in the page")
	}
	var charts []chart
	if err := json.Unmarshal([]byte(m[1]), &charts); err != nil {
		t.Fatal(err)
	}
	if len(charts) != 5 || strings.Count(page, `class="uplot-box"`) != 5 || strings.Count(page, `<svg class="paper"`) != 5 {
		t.Errorf("%d charts, want one for each mode and one from the planned time, each with a still picture", len(charts))
	}
	for _, c := range charts {
		if len(c.Series) != 7 || len(c.Series[0].Points) < 12 {
			t.Errorf("%s: %d lines, %d points", c.Title, len(c.Series), len(c.Series[0].Points))
		}
	}
}

func TestPageSaysIt(t *testing.T) {
	s := whole(t)
	got := render(t, s)
	for _, want := range []string{
		"A Processor &lt;fast&gt;", "encrypted (mutual TLS)", "Against other ways", "not ztunnel",
		"a reference in Go that stands in for ztunnel, and not ztunnel", "cannot be answered by this run",
		"--variants direct,direct-aa,dnat,duomesh-l4,ztunnel,ztunnel-plain,hboneref", "--blocks 8", "hboneref (not ztunnel)", "UNEQUAL: plaintext, mutual TLS", "ztunnel 1.31; 2 worker threads; access log on",
		"every request was answered by 200", ", the noise floor</small>", "or <em>undecided</em>",
		"Where the time goes", "400 µs, 2 hops in user space", "ztunnel: node proxy a, kernel: 290 µs, 72 %",
		"node proxy a reads at 120 µs, woken at 80.0, ran at 100", "direct: NOT RUN: this &lt;kernel&gt; has no tracepoints",
		"none: it stays in the pod", "1 of 100", "12.0 ms", "<td>148</td>", "670 … 935", "10.2 %",
		"What 1000 requests a second take", "<td>0.183</td>", "<td>42.0</td><td>70.0</td>", "Envoy 1.2, sha256 abc",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

// TestPageSaysWhatWasNotRun: the row stays, with the reason, and no figure.
func TestPageSaysWhatWasNotRun(t *testing.T) {
	p := plan.Default().Without(plan.NeedsZtunnel, "there is none & nowhere").Without(plan.NeedsEnvoy, "none either")
	got := render(t, made(t, p))
	for _, want := range []string{"NOT RUN: there is none &amp; nowhere", "<b>ztunnel-plain</b> was <b>NOT RUN</b>"} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(got, `id="versus"`) {
		t.Error("a comparison with something that did not run")
	}
}

// TestPageOfNothing: a run that ended at once has a page too.
func TestPageOfNothing(t *testing.T) {
	s := result.Summary{Plan: plan.Default(), Reason: "stopped <early>", Verdict: report.Inconclusive}
	if got := render(t, s); !strings.Contains(got, "incomplete") || !strings.Contains(got, "stopped &lt;early&gt;") {
		t.Error("an empty run does not say why")
	}
}

func withoutUplot(page string) string {
	return strings.ReplaceAll(strings.ReplaceAll(page, uplotJS, ""), uplotCSS, "")
}

func around(s, what string) string {
	i := strings.Index(s, what)
	return s[max(i-80, 0):min(i+80, len(s))]
}

package result

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
	"github.com/duomesh/duomesh/internal/report"
)

// withAmbient is a run that has rows of Ambient: ztunnel adds four times direct.
func withAmbient(slow map[plan.Variant]float64) Run {
	r := synthetic(8, slow)
	r.Trials = nil
	r.Head.Plan.Variants = []plan.Variant{plan.Direct, plan.DirectAA, plan.L4, plan.Ztunnel, plan.ZtunnelPlain}
	r.Head.Plan.Modes = []plan.Mode{plan.Closed}
	for b := 1; b <= 8; b++ {
		for i, c := range r.Head.Plan.Block(b) {
			t := syntheticTrial(b, i+1, c, 1+slow[c.Variant])
			if c.Variant.Traits().Redirect {
				n := uint64(1)
				t.Redirected = &n
				t.CPU.Proxies = map[string]time.Duration{"ztunnel a": 40 * time.Millisecond, "ztunnel b": 30 * time.Millisecond}
				t.CPU.Machine += t.CPU.Between()
				t.ProxyMemory = map[string]uint64{"ztunnel a": 20e6, "ztunnel b": 30e6}
			}
			r.Trials = append(r.Trials, t)
		}
	}
	return r
}

func TestShareOfAmbient(t *testing.T) {
	s := summarise(t, withAmbient(map[plan.Variant]float64{plan.Ztunnel: 3, plan.ZtunnelPlain: 2.5, plan.L4: 0.3}))
	v := s.Groups[0].Row(plan.L4).Against(plan.Ztunnel)
	if v == nil || v.Share == nil || !v.Share.Contains(0.1) || v.RatioP50.High > 0.4 || v.RatioCPU.Estimate > 0.5 {
		t.Fatalf("against ztunnel: %+v", v)
	}
	if row := s.Groups[0].Row(plan.Ztunnel); row.ProxyCPU["ztunnel a"] < 70 || row.OtherCPU > 50 {
		t.Errorf("CPU of the proxies: %v, of nobody %g", row.ProxyCPU, row.OtherCPU)
	}
	// 500 requests in a second, 70 ms of both proxies: 0.14 cores for 1000.
	c := s.Groups[0].Row(plan.Ztunnel).Cost
	if math.Abs(c.ProxyCores-0.14) > 0.01 || c.ProxyMemory != 50e6 || math.Abs(c.ProxyMemoryPer1000-100e6) > 1e6 || c.Cores() <= c.ClientCores+c.ServerCores+c.ProxyCores {
		t.Errorf("1000 requests a second take %+v", c)
	}
	if c := s.Groups[0].Row(plan.L4).Cost; c.ProxyCores != 0 || c.ProxyMemory != 0 || c.ClientCores <= 0 {
		t.Errorf("without a proxy 1000 requests a second take %+v", c)
	}
	requireTargets(t, s, map[string]stats.Reach{
		"closed, against ztunnel (mutual TLS, unequal security): share of its added p50": stats.NotReached,
		"closed, against ztunnel (mutual TLS, unequal security): p50":                    stats.NotReached,
		"closed, against ztunnel-plain: p50":                                             stats.NotReached,
	})
	if s.Verdict != report.Pass {
		t.Errorf("verdict %s: %+v", s.Verdict, s.Checks)
	}
	s = summarise(t, withAmbient(map[plan.Variant]float64{plan.Ztunnel: 4, plan.ZtunnelPlain: 3.5, plan.L4: 0.01}))
	requireTargets(t, s, map[string]stats.Reach{
		"closed, against ztunnel (mutual TLS, unequal security): share of its added p50": stats.Reached, "closed, against ztunnel (mutual TLS, unequal security): p50": stats.Reached,
	})
}

// TestAmbientWithoutABinary: the targets say why, and nothing is filled in.
func TestAmbientWithoutABinary(t *testing.T) {
	r := synthetic(6, nil)
	r.Head.Plan.Variants = append(r.Head.Plan.Variants, plan.Ztunnel, plan.ZtunnelPlain)
	r.Head.Plan = r.Head.Plan.Without(plan.NeedsZtunnel, "none here")
	s := summarise(t, r)
	n := 0
	for _, x := range s.Targets {
		if strings.HasPrefix(x.Name, "duomesh-l4 against ztunnel") {
			n++
			if x.Reach != NotRun || x.Found != "none here" {
				t.Errorf("%+v", x)
			}
		}
	}
	if n != 2 || s.Verdict != report.Pass {
		t.Errorf("%d targets against ztunnel, verdict %s", n, s.Verdict)
	}
}

// TestProxyThatCarriesNothingIsFound: the seeded defect is a proxy whose own
// counter does not know of the connections.
func TestProxyThatCarriesNothingIsFound(t *testing.T) {
	r := withAmbient(nil)
	for i := range r.Trials {
		if r.Trials[i].Variant == plan.ZtunnelPlain {
			n := uint64(0)
			r.Trials[i].Redirected = &n
			r.Trials[i].Otherwise = map[string]uint64{"from a to unknown, unknown": 7}
		}
	}
	s := summarise(t, r)
	for _, c := range s.Checks {
		if c.Verdict == report.Fail && !strings.Contains(c.Detail, ", 7 from a to unknown, unknown") {
			t.Errorf("it does not say what was counted in its place: %s", c.Detail)
		}
		if failed := c.Verdict == report.Fail; failed != (c.Name == "ztunnel-plain redirected every connection") {
			t.Errorf("%s: %s: %s", c.Name, c.Verdict, c.Detail)
		}
	}
	if s.Verdict != report.Fail {
		t.Errorf("verdict %s", s.Verdict)
	}
}

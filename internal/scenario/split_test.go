package scenario

import (
	"math/rand/v2"
	"testing"

	"github.com/duomesh/duomesh/internal/report"
)

func TestAcceptedIsExact(t *testing.T) {
	// 20 fair coins: both tails beyond 0 and 20 have 2^-20 = 9.5e-7 > Alpha/2.
	if got, want := Accepted(20, 0.5), (Range{0, 20}); got != want {
		t.Errorf("20 coins: %v, want %v", got, want)
	}
	// 21 coins: 2^-21 = 4.8e-7 <= Alpha/2 on either side.
	if got, want := Accepted(21, 0.5), (Range{1, 20}); got != want {
		t.Errorf("21 coins: %v, want %v", got, want)
	}
	if got, want := Accepted(100, 1), (Range{100, 100}); got != want {
		t.Errorf("share 1: %v, want %v", got, want)
	}
}

func TestPowerRefusesWrongSplit(t *testing.T) {
	if p := Power(4000, 0.9); p < 0.9999 {
		t.Errorf("85/15 passes a 90/10 gate of 4000 with probability %g", 1-p)
	}
	if p := Power(400, 0.9); p > 0.9 {
		t.Errorf("400 connections cannot have power %g", p)
	}
}

func TestCheckSplit(t *testing.T) {
	want := map[string]float64{"v1": 0.9, "v2": 0.1}
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(p float64) map[string]int {
		got := map[string]int{}
		for range 4000 {
			if rng.Float64() < p {
				got["v1"]++
			} else {
				got["v2"]++
			}
		}
		return got
	}
	verdict := func(got map[string]int) report.Verdict {
		var r report.Result
		r.Verdict = report.Pass
		r.Add(CheckSplit("client", want, got)...)
		return r.Verdict
	}
	for range 200 {
		if v := verdict(draw(0.9)); v != report.Pass {
			t.Fatalf("a right split fails: %s", v)
		}
		if v := verdict(draw(0.85)); v != report.Fail {
			t.Fatalf("85/15 passes as 90/10")
		}
	}
	if v := verdict(map[string]int{"v1": 3600, "v2": 399, "v3": 1}); v != report.Fail {
		t.Error("one connection to an undeclared pod passes")
	}
}

package scenario

import (
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/duomesh/duomesh/internal/report"
)

// The constants of every share gate (docs/scenarios.md).
const (
	// Alpha is the two-sided chance that a right mesh fails one gate.
	Alpha = 1e-6
	// Shift is the error in a share that a gate must see.
	Shift = 0.05
	// MinPower is the chance with which it must see it.
	MinPower = 0.99
	// MinConnections is the least n of a gate.
	MinConnections = 4000
)

// Range is the counts that a share gate accepts, both ends included.
type Range struct{ Low, High int }

// Accepted returns the exact binomial range for n connections and share p: the
// counts outside it have a probability of at most Alpha/2 on either side.
func Accepted(n int, p float64) Range {
	if p <= 0 {
		return Range{0, 0}
	}
	if p >= 1 {
		return Range{n, n}
	}
	b := distuv.Binomial{N: float64(n), P: p}
	low := search(n, func(k int) bool { return b.CDF(float64(k)) > Alpha/2 })
	high := search(n, func(k int) bool { return 1-b.CDF(float64(k)) <= Alpha/2 })
	return Range{low, high}
}

// search returns the smallest k in 0..n for which ok holds; ok is monotonic.
func search(n int, ok func(int) bool) int {
	low, high := 0, n
	for low < high {
		mid := (low + high) / 2
		if ok(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// Power returns the chance that a gate of n connections and share p refuses a
// mesh whose share is wrong by Shift, in the direction that is harder to see.
func Power(n int, p float64) float64 {
	r := Accepted(n, p)
	worst := 1.0
	for _, wrong := range []float64{p - Shift, p + Shift} {
		if wrong < 0 || wrong > 1 {
			continue
		}
		worst = min(worst, 1-r.probability(n, wrong))
	}
	return worst
}

func (r Range) probability(n int, p float64) float64 {
	b := distuv.Binomial{N: float64(n), P: p}
	below := 0.0
	if r.Low > 0 {
		below = b.CDF(float64(r.Low - 1))
	}
	return b.CDF(float64(r.High)) - below
}

// CheckSplit holds counts per pod against the declared shares. A pod that is
// not declared must have a count of zero.
func CheckSplit(name string, want map[string]float64, got map[string]int) []report.Check {
	n := 0
	for _, c := range got {
		n += c
	}
	var checks []report.Check
	for _, pod := range sorted(want) {
		checks = append(checks, checkShare(name, pod, n, got[pod], want[pod]))
	}
	for _, pod := range sorted(got) {
		if _, declared := want[pod]; !declared {
			checks = append(checks, report.Checkf(name+" share of "+pod, got[pod] == 0,
				"%d connections, not declared", got[pod]))
		}
	}
	return checks
}

// CheckExact is CheckSplit for the shares 0 and 1 alone.
func CheckExact(name string, want map[string]float64, got map[string]int) []report.Check {
	exact, counts := map[string]float64{}, map[string]int{}
	for pod, n := range got {
		if share := want[pod]; share <= 0 || share >= 1 {
			counts[pod] = n
		}
	}
	for pod, share := range want {
		if share <= 0 || share >= 1 {
			exact[pod] = share
		}
	}
	return CheckSplit(name, exact, counts)
}

// checkShare judges one count. A count in range that could not have shown an
// error of Shift is inconclusive.
func checkShare(name, pod string, n, got int, share float64) report.Check {
	r, power := Accepted(n, share), Power(n, share)
	c := report.Checkf(name+" share of "+pod, r.Low <= got && got <= r.High,
		"%d of %d, accepted %d..%d, power %.4f", got, n, r.Low, r.High, power)
	c.Share = &report.Share{Pod: pod, Count: got, Total: n, Want: share, Low: r.Low, High: r.High}
	if exact := share <= 0 || share >= 1; !exact && c.Verdict == report.Pass && power < MinPower {
		c.Verdict = report.Inconclusive
	}
	return c
}

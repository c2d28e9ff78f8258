package plan

import "fmt"

// Factor is the p50 of a stand-in divided by that of what it stands in for, with the
// interval of 95 %.
type Factor struct{ Ratio, Low, High float64 }

// String is the figure and its interval.
func (f Factor) String() string { return fmt.Sprintf("%.2f [%.2f, %.2f]", f.Ratio, f.Low, f.High) }

// MaxFactor is up to where a stand-in is shown without being asked for: beyond it, it
// would flatter whatever is held against it.
const MaxFactor = 1.6

type factorTable map[Variant]map[Mode]Factor

// factors were measured side by side with a ztunnel, client and server on two nodes
// (docs/results/2026-11-28-ambient). What is not here was not measured.
var factors = factorTable{
	HBONERef: {
		Fixed:      {1.36, 1.25, 1.48},
		Closed:     {1.09, 0.99, 1.14},
		Saturation: {1.14, 1.05, 1.26},
		NewConn:    {1.10, 1.03, 1.17},
	},
	HBONERefWaypoint: {
		Fixed:      {1.27, 1.15, 1.44},
		Closed:     {1.17, 1.11, 1.25},
		Saturation: {1.02, 0.93, 1.13},
		NewConn:    {0.99, 0.89, 1.05},
	},
}

// Factor is how much slower a stand-in was than what it stands in for when both were
// measured side by side; false where that was not done.
func (v Variant) Factor(m Mode) (Factor, bool) {
	f, ok := factors[v][m]
	return f, ok
}

// WithStandIns adds the stand-ins to the plan. One that was found to be much slower than
// what it stands in for is left out, and the plan says so.
func (p Plan) WithStandIns() Plan { return p.withStandIns(factors) }

func (p Plan) withStandIns(measured factorTable) Plan {
	p.Variants, p.Absent = append([]Variant{}, p.Variants...), append([]Absent(nil), p.Absent...)
	for _, v := range StandIns() {
		if m, f, slow := measured.tooSlow(v); slow {
			p.Absent = append(p.Absent, Absent{v, fmt.Sprintf(
				"its p50 was %s of %s's (%s), and up to %g is shown unasked: --variants has it", f, v.Traits().For, m, MaxFactor)})
			continue
		}
		p.Variants = append(p.Variants, v)
	}
	return p
}

// tooSlow names the first mode in which a stand-in is beyond the limit.
func (t factorTable) tooSlow(v Variant) (Mode, Factor, bool) {
	for _, m := range Modes() {
		if f := t[v][m]; f.Ratio > MaxFactor {
			return m, f, true
		}
	}
	return "", Factor{}, false
}

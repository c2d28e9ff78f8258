package plan

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestBadPlansAreNamed(t *testing.T) {
	for want, spoil := range map[string]func(*Plan){
		`unknown variant "ztunel"`:   func(p *Plan) { p.Variants = []Variant{Direct, "ztunel"} },
		"given twice":                func(p *Plan) { p.Modes = []Mode{Fixed, Fixed} },
		"placements: none given":     func(p *Plan) { p.Placements = nil },
		"direct is missing":          func(p *Plan) { p.Variants = []Variant{L4} },
		"fewer than two requests":    func(p *Plan) { p.Load.PerSecond = 0.5 },
		"duration 0s":                func(p *Plan) { p.Duration = 0 },
		"blocks -1":                  func(p *Plan) { p.Blocks = -1 },
		"at most 12h0m0s altogether": func(p *Plan) { p.Blocks = 1 << 40 },
		"budget 13h0m0s":             func(p *Plan) { p.Budget = 13 * time.Hour },
		"20000000 requests":          func(p *Plan) { p.Load.PerSecond, p.Duration = 1e5, 10*time.Minute },
		"reply 1000000 bytes":        func(p *Plan) { p.Load.ReplyBytes = 1000000 },
	} {
		p := Default()
		spoil(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestBlockIsAShuffleWithTheCompared(t *testing.T) {
	p := Default()
	p.Placements = []Placement{Cross, Same}
	p.Seed = 7
	orders := map[string]bool{}
	for n := 1; n <= 20; n++ {
		cells := p.Block(n)
		if !slices.Equal(cells, p.Block(n)) {
			t.Fatalf("block %d is not repeatable", n)
		}
		seen := map[Cell]bool{}
		for i, c := range cells {
			seen[c] = true
			group := cells[i-i%len(p.Variants)]
			if c.Mode != group.Mode || c.Placement != group.Placement {
				t.Fatalf("block %d: %v stands away from its group", n, c)
			}
		}
		if len(seen) != p.Cells() || len(cells) != p.Cells() {
			t.Fatalf("block %d has %d cells, %d different, want %d", n, len(cells), len(seen), p.Cells())
		}
		var order []string
		for _, c := range cells {
			order = append(order, c.String())
		}
		orders[strings.Join(order, " ")] = true
	}
	if len(orders) != 20 {
		t.Errorf("20 blocks have %d different orders", len(orders))
	}
}

func TestSpecsOfModes(t *testing.T) {
	p := Default()
	for _, m := range Modes() {
		s := p.Spec(m, "10.0.0.1:80")
		if (s.PerSecond > 0) != (m == Fixed) || (s.Threads == 16) != (m == Saturation) || s.KeepAlive == (m == NewConn) {
			t.Errorf("%s: %+v", m, s)
		}
		want := "http://10.0.0.1:80/?size=1024" + map[Mode]string{Think250: "&delay=250us", Think1000: "&delay=1000us"}[m]
		if s.URL != want {
			t.Errorf("%s: url %s, want %s", m, s.URL, want)
		}
	}
}

func TestEveryVariantSaysWhatItIs(t *testing.T) {
	for _, v := range Variants() {
		if x := v.Traits(); x.Way == "" || x.Security == "" {
			t.Errorf("%s: %+v", v, x)
		}
	}
	p := Default().Without(NeedsZtunnel, "none")
	if why, absent := p.WhyAbsent(Ztunnel); !absent || why != "none" || slices.Contains(p.Variants, ZtunnelPlain) || len(p.Absent) != 3 {
		t.Errorf("%+v", p)
	}
	if q := Default(); len(q.Absent) > 0 || !slices.Contains(q.Variants, Ztunnel) {
		t.Errorf("the plan it was made from has changed: %+v", q)
	}
}

// TestSlowStandInLeavesTheDefault: beyond 1.6 it is not shown unasked, and the plan says
// why; one that is near, or was not measured, is.
func TestSlowStandInLeavesTheDefault(t *testing.T) {
	near := Plan{Variants: []Variant{Direct}}.withStandIns(factorTable{HBONERef: {Closed: {1.59, 1.2, 2}}})
	if len(near.Variants) != 3 || len(near.Absent) > 0 {
		t.Errorf("1.59: %+v", near)
	}
	far := Plan{Variants: []Variant{Direct}}.withStandIns(factorTable{HBONERef: {Closed: {1.2, 1.1, 1.3}, NewConn: {1.61, 1.5, 1.7}}})
	why, absent := far.WhyAbsent(HBONERef)
	if slices.Contains(far.Variants, HBONERef) || !slices.Contains(far.Variants, HBONERefWaypoint) || !absent || !strings.Contains(why, "1.61 [1.50, 1.70] of ztunnel's (newconn)") {
		t.Errorf("1.61: %+v", far)
	}
	if got := Default().WithStandIns(); !slices.Contains(got.Variants, HBONERef) || slices.Contains(Default().Variants, HBONERef) {
		t.Errorf("as measured: %+v", got)
	}
	for v, modes := range factors {
		for m, f := range modes {
			if v.Traits().StandIn == "" || !(f.Low <= f.Ratio && f.Ratio <= f.High) {
				t.Errorf("%s %s: %s", v, m, f)
			}
		}
	}
}

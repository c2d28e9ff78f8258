package l4

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

// probabilities adds up, exactly, what the columns give each address.
func probabilities(columns []meshSlot) map[[4]uint32]*big.Rat {
	sums := map[[4]uint32]*big.Rat{}
	add := func(to [4]uint32, p *big.Rat) {
		if sums[to] == nil {
			sums[to] = new(big.Rat)
		}
		sums[to].Add(sums[to], p)
	}
	n := new(big.Rat).SetInt64(int64(len(columns)))
	for _, c := range columns {
		first := big.NewRat(int64(c.Threshold), 1<<32)
		second := new(big.Rat).Sub(big.NewRat(1, 1), first)
		add(c.First, first.Quo(first, n))
		add(c.Second, second.Quo(second, n))
	}
	return sums
}

// farthest is the greatest distance of a target's probability from its share.
func farthest(targets []target, columns []meshSlot) *big.Rat {
	total := new(big.Int)
	for _, t := range targets {
		total.Add(total, big.NewInt(int64(t.weight)))
	}
	got := probabilities(columns)
	most := new(big.Rat)
	for _, t := range targets {
		d := new(big.Rat).SetFrac(big.NewInt(int64(t.weight)), total)
		if p := got[t.addr]; p != nil {
			d.Sub(d, p)
		}
		if d.Abs(d).Cmp(most) > 0 {
			most = d
		}
	}
	return most
}

var tolerance = big.NewRat(1, 1<<30)

func randomTargets(r *rand.Rand, n int) []target {
	targets := make([]target, n)
	for i := range targets {
		w := 1 + r.Uint32N(100)
		switch r.IntN(4) {
		case 0:
			w = 1
		case 1:
			w = max(1, r.Uint32())
		case 2:
			w = 1<<32 - 1
		}
		targets[i] = target{addr: [4]uint32{0, 0, 0xffff0000, uint32(i)}, port: swapPort(7001), weight: w}
	}
	return targets
}

func TestAliasTableIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		targets := randomTargets(r, 1+r.IntN(60))
		if d := farthest(targets, aliasTable(targets)); d.Cmp(tolerance) > 0 {
			t.Fatalf("weights %v: off by %s", targets, d.FloatString(15))
		}
	}
}

func TestAliasTableOfManyTargets(t *testing.T) {
	targets := randomTargets(rand.New(rand.NewPCG(3, 4)), 100_000)
	if d := farthest(targets, aliasTable(targets)); d.Cmp(tolerance) > 0 {
		t.Errorf("off by %s", d.FloatString(15))
	}
}

// The check itself must see a table that is a little wrong.
func TestFarthestSeesAWrongTable(t *testing.T) {
	targets := []target{{addr: [4]uint32{1}, weight: 1}, {addr: [4]uint32{2}, weight: 2}}
	columns := aliasTable(targets)
	columns[0].Threshold -= 1 << 4
	if farthest(targets, columns).Cmp(tolerance) <= 0 {
		t.Error("a threshold that is off by 2^-28 was taken for exact")
	}
}

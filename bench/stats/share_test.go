package stats

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// triples are blocks in which the base adds 300 and the variant its share of it,
// on a machine that drifts.
func triples(r *rand.Rand, blocks int, share float64) []Triple {
	var all []Triple
	for range blocks {
		drift := 1 + 0.2*r.NormFloat64()
		all = append(all, Triple{
			Floor:   lognormal(r, 300, 100*drift, 0.1),
			Base:    lognormal(r, 300, 400*drift, 0.1),
			Variant: lognormal(r, 300, (100+300*share)*drift, 0.1),
		})
	}
	return all
}

func TestShareKnownAnswer(t *testing.T) {
	var blocks []Triple
	for b := range 8 {
		f := 100 + float64(b)
		blocks = append(blocks, Triple{Sorted{f}, Sorted{f + 200}, Sorted{f + 10}})
	}
	got, err := Share(blocks, Single(), Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []float64{got.Estimate, got.Low, got.High} {
		near(t, "share", x, 0.05, 1e-12)
	}
}

// TestShareCovers: the interval holds the true share in about 95 of 100 runs,
// however the machine drifts.
func TestShareCovers(t *testing.T) {
	const runs, truth = 200, 0.04
	missed := 0
	for i := range uint64(runs) {
		got, err := Share(triples(rand.New(rand.NewPCG(i, 17)), 8, truth), AtQuantile(0.5), Options{Seed: i, Replicates: 500})
		if err != nil {
			t.Fatal(err)
		}
		if !got.Contains(truth) {
			missed++
		}
	}
	if missed > runs/10 {
		t.Errorf("%d of %d intervals miss the share", missed, runs)
	}
}

// TestNoShareOfNothing: a base that adds nothing has no shares.
func TestNoShareOfNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	var blocks []Triple
	for range 8 {
		blocks = append(blocks, Triple{lognormal(r, 200, 100, 0.2), lognormal(r, 200, 100, 0.2), lognormal(r, 200, 100, 0.2)})
	}
	if got, err := Share(blocks, AtQuantile(0.5), Options{Seed: 3}); !errors.Is(err, ErrNothingAdded) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Share(blocks[:1], AtQuantile(0.5), Options{}); !errors.Is(err, ErrTooFewBlocks) {
		t.Errorf("one block: %v", err)
	}
	if _, err := Share(append(blocks, Triple{}), AtQuantile(0.5), Options{}); err == nil {
		t.Error("an empty trial gave a share")
	}
}

package vmtest

import (
	"testing"
	"time"
)

// The counter counts evenly, or a machine that is told how fast has a wrong clock.
func TestCountsPerMilli(t *testing.T) {
	if _, count := moment(); count == 0 {
		t.Skip("NOT RUN: this processor has no counter of cycles that is known here")
	}
	short, long := countsPerMilli(20*time.Millisecond), countsPerMilli(200*time.Millisecond)
	if off := float64(short)/float64(long) - 1; off < -.01 || off > .01 {
		t.Errorf("%d and %d in a millisecond", short, long)
	}
}

package vmtest

import (
	"fmt"
	"math"
	"time"
)

// clockArgs make the counter of cycles a translated machine's clock. Its kernel does not
// trust it on two processors of that kind, and any other is a device, which takes a
// translated machine ten times as long to read. How fast it counts, which is as fast as
// here, the kernel must be told: against the timers of a machine on a busy host it has
// found a thirtieth. Empty where this host has no such counter.
func clockArgs() string {
	khz := countsPerMilli(250 * time.Millisecond)
	if khz == 0 {
		return ""
	}
	return fmt.Sprintf("tsc=reliable tsc_early_khz=%d", khz)
}

// countsPerMilli is how often the counter counts in a millisecond, measured for a while.
func countsPerMilli(while time.Duration) uint64 {
	t0, c0 := moment()
	time.Sleep(while)
	t1, c1 := moment()
	return (c1 - c0) * uint64(time.Millisecond) / uint64(t1.Sub(t0))
}

// moment reads clock and counter together: of some readings that in which the least time
// went by between two looks at the clock.
func moment() (at time.Time, count uint64) {
	least := time.Duration(math.MaxInt64)
	for range 100 {
		before := time.Now()
		c := cycles()
		if took := time.Since(before); took < least {
			least, at, count = took, before.Add(took/2), c
		}
	}
	return at, count
}

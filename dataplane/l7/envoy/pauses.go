package envoy

import "time"

const (
	// firstPause and longestPause bound the pause before a start, once there is one.
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// often is how many ends within steadyTime are followed by a start at once, where the
	// Envoy had answered: that it ends need not be its configuration's fault.
	often      = 3
	steadyTime = 10 * time.Second
)

// pauses says how long to wait before an Envoy that has ended is started again: not at
// all, as long as it serves and seldom ends; longer each time where it does not.
type pauses struct {
	ends []time.Time // the newest, at most often
	last time.Duration
}

// next is the pause after an end at some time; served says whether that Envoy had
// answered before.
func (p *pauses) next(now time.Time, served bool) time.Duration {
	quick := len(p.ends) == often && now.Sub(p.ends[0]) <= steadyTime
	if p.ends = append(p.ends, now); len(p.ends) > often {
		p.ends = p.ends[1:]
	}
	if served && !quick {
		p.last = 0
		return 0
	}
	p.last = min(max(2*p.last, firstPause), longestPause)
	return p.last
}

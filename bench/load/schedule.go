package load

import "time"

// slots is how many requests fortio plans for one thread of a fixed rate.
func (s Spec) slots() int {
	return int(s.PerSecond*s.Duration.Seconds()) / max(s.Threads, 1)
}

// interval is the time between two planned requests of one thread.
func (s Spec) interval() time.Duration {
	return time.Duration(float64(s.Threads) / s.PerSecond * float64(time.Second))
}

// intended returns when request i of a thread was planned to leave, from the
// start of the run. It is fortio's own plan (package periodic, runOne): the
// slots are stretched a little, so that the last ends with the run, and the
// threads are spread over one interval.
func (s Spec) intended(thread, i int) time.Duration {
	perThread := s.PerSecond / float64(s.Threads)
	at := float64(i) / perThread
	if n := s.slots(); n > 1 {
		at += float64(i) / float64(n-1) / perThread
	}
	shift := float64(thread) / float64(s.Threads) / perThread
	return time.Duration((at + shift) * float64(time.Second))
}

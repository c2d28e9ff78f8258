package result

import "github.com/duomesh/duomesh/bench/plan"

// Quiet knows, for each form of load, how much of the machine is busy for nobody
// when nobody else is there: waking a processor and handling its interrupts is
// work that the kernel books to no process, and a load that sleeps and wakes
// ten thousand times a second makes a lot of it. The quietest trial shows how
// much. The zero value is not ready: make one.
//
// Each variant is held against itself: what one makes the kernel do for nobody
// in particular is its own cost, and no reason to measure it again.
type Quiet map[plan.Cell]float64

// Learn takes a trial into account.
func (q Quiet) Learn(t Trial) {
	if least, ok := q[t.Cell]; !ok || t.Rest() < least {
		q[t.Cell] = t.Rest()
	}
}

// Foreign is the share of the machine that went to others in a trial: what the
// trial has above the quietest of its kind so far. A first trial has nothing to
// stand beside: all its rest counts.
func (q Quiet) Foreign(t Trial) float64 {
	return max(t.Rest()-q[t.Cell], 0)
}

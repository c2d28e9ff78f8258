package result

import "github.com/duomesh/duomesh/bench/plan"

// Quiet knows, for each form of load, how much of the machine is busy for nobody
// when nobody else is there: waking a processor and handling its interrupts is
// work that the kernel books to no process, and a load that sleeps and wakes
// ten thousand times a second makes a lot of it. The quietest trial shows how
// much. The zero value is not ready: make one.
type Quiet map[quietKey]float64

type quietKey struct {
	placement plan.Placement
	mode      plan.Mode
}

// Learn takes a trial into account.
func (q Quiet) Learn(t Trial) {
	k := quietKey{t.Placement, t.Mode}
	if least, ok := q[k]; !ok || t.Rest() < least {
		q[k] = t.Rest()
	}
}

// Foreign is the share of the machine that went to others in a trial: what the
// trial has above the quietest of its kind so far. A first trial has nothing to
// stand beside: all its rest counts.
func (q Quiet) Foreign(t Trial) float64 {
	return max(t.Rest()-q[quietKey{t.Placement, t.Mode}], 0)
}

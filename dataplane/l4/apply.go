package l4

import (
	"context"
	"errors"
	"fmt"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Apply makes s the state of the node. When it returns nil, every connect() that
// is still being decided is decided by s; established connections keep their
// backend. A Snapshot equal to the last one writes nothing.
//
// Nothing was written when it returns an error of Snapshot.Validate, an
// intent.UnsupportedError, a CapacityError or the context's error. After any other
// error the node holds a mix of old and new services, none half-written, and
// Apply may be called again.
func (e *Engine) Apply(ctx context.Context, s intent.Snapshot) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.state.validate(s); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := supported(s); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	p := e.state.plan(s.Services, e.host.Place)
	if err := e.fits(p); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	e.staleUDP = e.staleUDP || p.endsUDP
	if err := e.carryOut(p); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	e.state.adopt(p, s)
	e.gateways = gatewaysOf(s)
	if err := e.evict(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// fits checks the moment at which the most entries are there: new slots are
// written before old ones go, new frontends before unwanted ones go.
func (e *Engine) fits(p *plan) error {
	if need := uint64(e.state.slots) + p.slots; need > uint64(e.limits.Slots) {
		return CapacityError{Map: e.slots.name, Need: uint32(min(need, 1<<32-1)), Have: e.limits.Slots}
	}
	if p.unplaced > 0 {
		return CapacityError{Map: e.slots.name, Need: p.unplaced, Have: p.ranges.largest(), InRow: true}
	}
	if need := uint64(len(e.state.fronts)) + uint64(p.added); need > uint64(e.limits.Frontends) {
		return CapacityError{Map: e.frontends.name, Need: uint32(need), Have: e.limits.Frontends}
	}
	return nil
}

// carryOut writes a plan in the order in which no program meets a frontend
// without its slots.
func (e *Engine) carryOut(p *plan) error {
	e.state.ranges = p.ranges
	for _, set := range p.sets {
		e.state.putSet(set.id, uint32(len(set.targets)))
	}
	for _, set := range p.sets {
		if err := e.slots.put(slotsOf(set)); err != nil {
			e.collect() // no frontend has named them
			return err
		}
	}
	if p.replaces {
		if err := e.flipping(true); err != nil {
			return err
		}
	}
	if err := e.flip(p.putKeys, p.put); err != nil {
		return err
	}
	if err := e.frontends.remove(p.drop); err != nil {
		return errors.Join(err, e.reread())
	}
	for _, k := range p.drop {
		e.state.dropFront(k)
	}
	if p.replaces {
		if err := e.grace.wait(); err != nil {
			return err
		}
		if err := e.flipping(false); err != nil {
			return err
		}
	}
	e.collect()
	return nil
}

// flipping tells the programs whether frontends are being replaced. It stays on
// after an error: that costs a miss a few more looks, until the next Apply.
func (e *Engine) flipping(on bool) error {
	var n uint32
	if on {
		n = 1
	}
	return e.flips.put([]uint32{0}, []uint32{n})
}

// flip points frontends to their new sets, each in one atomic step.
func (e *Engine) flip(keys []meshFrontendKey, values []meshFrontend) error {
	for len(keys) > 0 {
		n := min(len(keys), batchSize)
		if err := e.frontends.put(keys[:n], values[:n]); err != nil {
			return errors.Join(err, e.reread())
		}
		for i := range n {
			e.state.putFront(keys[i], values[i])
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
}

// collect frees the slots that no frontend names. The caller has waited until
// no program can hold such a frontend.
func (e *Engine) collect() {
	for _, id := range e.state.garbage() {
		e.state.dropSet(id)
	}
}

// reread makes the mirror what the kernel has: after a failed write, and for
// the entries of a process that ran earlier. What is free then must not be read
// any more either, so it waits as Apply does.
func (e *Engine) reread() error {
	fresh := newState(e.limits.Slots)
	fresh.services, fresh.byName = e.state.services, e.state.byName
	fresh.workloads, fresh.applied = e.state.workloads, e.state.applied
	fresh.lastGeneration = e.state.lastGeneration
	var wrong []error
	err := e.frontends.each(func(k meshFrontendKey, v meshFrontend) {
		if err := fresh.found(k, v); err != nil {
			wrong = append(wrong, err)
		}
	})
	if err = errors.Join(append(wrong, err)...); err != nil {
		return err
	}
	e.state = fresh
	return e.grace.wait()
}

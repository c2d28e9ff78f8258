package l4

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Apply makes s the state of the node. When it returns nil, every connect() that
// is still being decided is decided by s; established connections keep their
// backend. A Snapshot equal to the last one writes nothing; what another one costs
// grows with the services and workloads that are not the last one's by pointer.
//
// Nothing was written when it returns an error of Snapshot.Validate, an
// intent.UnsupportedError, a CapacityError or the context's error. After a
// PartialError Apply may be called again, with the same Snapshot, too.
func (e *Engine) Apply(ctx context.Context, s intent.Snapshot) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	p, err := e.prepare(ctx, s)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := e.carryOut(p); err != nil {
		return fmt.Errorf("apply: %w", PartialError{err})
	}
	if err := e.evict(); err != nil {
		return fmt.Errorf("apply: %w", PartialError{err})
	}
	return nil
}

// Shown is when the kernel had all of the last Snapshot: connections that begin
// after it are decided by that one. Apply returns later, when none is being decided
// that began before. It is zero before the first Apply.
func (e *Engine) Shown() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shown
}

// prepare finds what to write, and everything for which it may not be written.
func (e *Engine) prepare(ctx context.Context, s intent.Snapshot) (*plan, error) {
	c := e.state.changes(s)
	if err := e.state.validate(s, c); err != nil {
		return nil, err
	}
	if err := supported(s); err != nil {
		return nil, err
	}
	if e.state.failed {
		// What the last Apply wrote counts as there, what it left is free.
		if err := e.reread(); err != nil {
			return nil, PartialError{err}
		}
	}
	e.state.lacks = missing{e.noHandoff, e.noHeaders}
	p := e.state.plan(c, e.host.Place)
	if err := e.fits(p); err != nil {
		return nil, err
	}
	return p, ctx.Err()
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
	if need := e.state.namesWith(p) - len(e.state.spare(p)); need > int(e.limits.Names) {
		return CapacityError{Map: e.names.name, Need: uint32(need), Have: e.limits.Names}
	}
	return nil
}

// carryOut writes a plan in the order in which no program meets a frontend
// without its slots.
func (e *Engine) carryOut(p *plan) error {
	if p.endsUDP {
		e.staleUDP = sweeps
	}
	if p.handsOff {
		if err := e.attachSockOps(); err != nil {
			return err
		}
	}
	if p.heads {
		if err := e.attachHeaders(); err != nil {
			return err
		}
	}
	err := e.show(p)
	if err == nil {
		e.shown = time.Now()
		err = e.settle(p)
	}
	if err != nil {
		e.state.torn, e.state.failed = true, true // nobody knows how far it came
		return err
	}
	e.state.adopt(p)
	e.state.torn, e.state.failed, e.state.found = false, false, nil
	return nil
}

// show writes what programs that begin from now on find.
func (e *Engine) show(p *plan) error {
	e.state.ranges = p.ranges
	for _, set := range p.sets {
		e.state.putSet(set.id, uint32(len(set.targets)))
	}
	for _, set := range p.sets {
		keys, values := slotsOf(set)
		if e.state.found != nil {
			copy(e.state.found[set.id.set:], values)
		}
		if err := e.slots.put(keys, values); err != nil {
			for _, mine := range p.sets {
				e.state.dropSet(mine.id) // no frontend has named it
			}
			return err
		}
	}
	if err := e.putNames(p); err != nil {
		return err
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
	return nil
}

// settle waits for the programs that began before, and frees the slots that no
// frontend names: no program can hold such a frontend then.
func (e *Engine) settle(p *plan) error {
	if p.replaces {
		if err := e.grace.wait(); err != nil {
			return err
		}
		if err := e.flipping(false); err != nil {
			return err
		}
	}
	e.state.dropLoose()
	return e.dropNames(p)
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

// reread makes the mirror what the kernel has: after a failed write, before the Apply
// that follows, and for the entries of a process that ran earlier. What is free then
// must not be read any more either, so it waits as Apply does.
func (e *Engine) reread() error {
	fresh := newMirror(e.limits.Slots)
	fresh.lastGeneration, fresh.failed = e.state.lastGeneration, e.state.failed
	var wrong []error
	err := e.frontends.each(func(k meshFrontendKey, v meshFrontend) {
		if err := fresh.meet(k, v); err != nil {
			wrong = append(wrong, err)
		}
	})
	if err = errors.Join(append(wrong, err)...); err != nil {
		return err
	}
	if err := e.names.each(func(id uint32, n meshName) { fresh.names[id] = n }); err != nil {
		return err
	}
	if len(fresh.sizes) > 0 {
		fresh.found = make([]meshSlot, e.limits.Slots)
	}
	// UDP flows tell sets apart by their generations, also sets that have gone.
	if err := e.slots.each(func(i uint32, s meshSlot) {
		fresh.lastGeneration = max(fresh.lastGeneration, s.Generation)
		if fresh.found != nil {
			fresh.found[i] = s
		}
	}); err != nil {
		return err
	}
	if err := e.grace.wait(); err != nil {
		return err
	}
	e.state.mirror = fresh
	return nil
}

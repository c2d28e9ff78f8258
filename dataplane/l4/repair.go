package l4

import (
	"errors"
	"fmt"
)

// Repair makes the kernel what was applied and enrolled again, where something else
// has changed it: programs that were detached are attached, what has lost its pin is
// pinned, entries that are missing or other are written, foreign ones removed. It
// returns what it found. What
// connections did meanwhile is not known; those that began before are not touched.
// It needs an Apply before.
func (e *Engine) Repair() ([]Difference, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	found, err := e.audit()
	if err != nil || len(found) == 0 {
		return nil, wrapped("audit", err)
	}
	return found, wrapped("repair", e.repair())
}

func wrapped(act string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", act, err)
	}
	return nil
}

// repair writes in the order of Apply: no frontend without its slots, and what is
// redirected to a waypoint has its name.
func (e *Engine) repair() error {
	if err := restore(&e.slots, e.wantedSlots(), part); err != nil {
		return err
	}
	if err := restore(&e.names, e.wantedNames(), whole); err != nil {
		return err
	}
	if err := e.restoreFronts(); err != nil {
		return err
	}
	if err := restore(&e.waypoints, e.wantedPorts(), whole); err != nil {
		return err
	}
	if err := restore(&e.managed, e.wantedManaged(), whole); err != nil {
		return err
	}
	return errors.Join(e.replace(), e.reattach(), e.repin())
}

// restoreFronts tells the programs that frontends are replaced, as Apply does.
func (e *Engine) restoreFronts() error {
	if err := e.flipping(true); err != nil {
		return err
	}
	if err := restore(&e.frontends, e.state.fronts, whole); err != nil {
		return err
	}
	if err := e.grace.wait(); err != nil {
		return err
	}
	return e.flipping(false)
}

// restore writes the entries of a table that are not as wanted, and where all are
// wanted ones removes the others.
func restore[K, V comparable](t *table[K, V], want map[K]V, all bool) error {
	have := make(map[K]V, len(want))
	if err := t.each(func(k K, v V) { have[k] = v }); err != nil {
		return err
	}
	var keys, foreign []K
	var values []V
	for k, w := range want {
		if v, there := have[k]; !there || v != w {
			keys, values = append(keys, k), append(values, w)
		}
	}
	if err := t.put(keys, values); err != nil || !all {
		return err
	}
	for k := range have {
		if _, ours := want[k]; !ours {
			foreign = append(foreign, k)
		}
	}
	return t.remove(foreign)
}

// reattach attaches the programs that are not attached any more, in the order in
// which Open does.
func (e *Engine) reattach() error {
	for _, h := range e.hooks {
		is, err := e.isAttached(h)
		if err != nil {
			return fmt.Errorf("program %s: %w", h.program, err)
		}
		if is {
			continue
		}
		if err := errors.Join(h.unpin(), h.link.Close()); err != nil {
			return err
		}
		if h.link, err = e.attachNew(h, e.coll.Programs[h.program]); err != nil {
			return err
		}
		e.closers = append(e.closers, h.link)
	}
	return nil
}

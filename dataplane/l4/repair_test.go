package l4

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// spoilt has somebody else change what the engine has in the kernel, each in a way
// that an audit must name by its map.
func spoilt(t *testing.T, e *Engine) map[string]func() error {
	t.Helper()
	slot := e.state.byName["default/own-port"].sets[0].id.set
	key := tcpKey(addr("10.9.0.1"), 80)
	foreign := tcpKey(addr("10.9.99.99"), 80)
	return map[string]func() error{
		"frontends": func() error {
			if err := e.frontends.m.Put(foreign, e.state.fronts[key]); err != nil {
				return err
			}
			return e.frontends.m.Delete(key)
		},
		"slots":   func() error { return e.slots.m.Put(slot, meshSlot{}) },
		"managed": func() error { return e.managed.m.Put(uint64(12345), uint32(0)) },
		"pods": func() error {
			for cookie := range e.enrolled {
				return e.pods.m.Put(placeOf(cookie), uint64(0))
			}
			return nil
		},
		Attachments: func() error {
			for _, h := range e.hooks {
				if err := h.link.Detach(); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// What somebody else changes in the kernel is named by an audit, stops or misleads
// connections until then, and is as it was after a repair; with and without pins.
func TestRepair(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		n := newNode(t)
		p := n.pod(t, "default/client")
		h := n.host()
		if pinned {
			h = n.pinned(bpffs(t))
		}
		e := mustOpen(t, h, Options{})
		t.Cleanup(func() { must(t, e.Close()) })
		if _, err := e.Repair(); err == nil {
			t.Error("repaired before the first Apply")
		}
		apply(t, e, decisions()...)
		must(t, e.Enrol(p.Pod))
		redirected := func() bool {
			exits := exitsOf(t, e, func() { p.dial(t, v4, addrPort("10.9.0.1:80")) })
			return exits[intent.Redirect] == 1
		}
		for name, spoil := range spoilt(t, e) {
			must(t, spoil())
			if found := mustName(t, e, name); name != "slots" && name != "managed" && redirected() {
				t.Errorf("pinned %v, %s: redirected, in spite of %v", pinned, name, found)
			}
			flips := e.flips.writes
			found, err := e.Repair()
			must(t, err)
			if told := e.flips.writes - flips; told != 2 {
				t.Errorf("pinned %v, %s: the programs were told %d times that frontends are replaced, want before and after", pinned, name, told)
			}
			if len(found) == 0 {
				t.Errorf("pinned %v, %s: nothing to repair", pinned, name)
			}
			audited(t, e)
			if !redirected() {
				t.Errorf("pinned %v, %s: not redirected after a repair of %v", pinned, name, found)
			}
		}
		if found, err := e.Repair(); err != nil || len(found) > 0 {
			t.Errorf("pinned %v: a second repair found %v, %v", pinned, found, err)
		}
		if pinned {
			must(t, e.Close())
			e = mustOpen(t, h, Options{}) // what was attached again is pinned
			apply(t, e, decisions()...)
			if !redirected() {
				t.Error("not redirected by what was pinned after a repair")
			}
		}
	}
}

// mustName fails unless an audit names a map.
func mustName(t *testing.T, e *Engine, in string) []Difference {
	t.Helper()
	found, err := e.Audit()
	must(t, err)
	for _, d := range found {
		if d.Map == in {
			return found
		}
	}
	t.Errorf("an audit does not name %s: %v", in, found)
	return found
}

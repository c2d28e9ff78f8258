package l4

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// What may be planned without a look at the other services, and what may not.
func TestExchange(t *testing.T) {
	w := workload("w", "10.1.0.1")
	first := service("a", []string{"10.9.0.1"}, []uint16{80}, w)
	other := service("b", []string{"10.9.0.2"}, []uint16{80}, w)
	rival := service("c", []string{"10.9.0.1"}, []uint16{80}, w)
	for name, c := range map[string]struct {
		before, after []*intent.Service
		partial       bool
	}{
		"nothing":             {[]*intent.Service{first, other}, []*intent.Service{first, other}, true},
		"other endpoints":     {[]*intent.Service{first, other}, []*intent.Service{service("a", []string{"10.9.0.1"}, []uint16{80}), other}, true},
		"another port":        {[]*intent.Service{first, other}, []*intent.Service{service("a", []string{"10.9.0.1"}, []uint16{81}, w), other}, false},
		"another address":     {[]*intent.Service{first, other}, []*intent.Service{service("a", []string{"10.9.0.9"}, []uint16{80}, w), other}, false},
		"another order":       {[]*intent.Service{first, other}, []*intent.Service{other, first}, false},
		"one less":            {[]*intent.Service{first, other}, []*intent.Service{first}, false},
		"a contested address": {[]*intent.Service{first, rival}, []*intent.Service{service("a", []string{"10.9.0.1"}, []uint16{80}), rival}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			e := n.open(t, Options{})
			apply(t, e, c.before...)
			if p := e.state.plan(c.after, here); p.partial != c.partial {
				t.Errorf("partial: %t, want %t", p.partial, c.partial)
			}
			apply(t, e, c.after...)
			fresh := newNode(t).open(t, Options{})
			apply(t, fresh, c.after...)
			sameFronts(t, e, fresh)
		})
	}
}

// After a failed Apply everything is looked at again, the services that did not
// change too.
func TestNoExchangeAfterFailure(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	a := service("a", []string{"10.9.0.1"}, []uint16{80}, workload("w", "10.1.0.1"))
	apply(t, e, a)
	e.state.order = nil // as Apply leaves it when it fails
	must(t, e.frontends.remove([]meshFrontendKey{frontendKey(intent.Frontend{Addr: addr("10.9.0.1"), Port: 80, Protocol: intent.TCP})}))
	must(t, e.reread())
	apply(t, e, a)
	fresh := newNode(t).open(t, Options{})
	apply(t, fresh, a)
	sameFronts(t, e, fresh)
}

// sameFronts holds what two engines have in the kernel against each other, but
// for where the sets are.
func sameFronts(t *testing.T, got, want *Engine) {
	t.Helper()
	read := func(e *Engine) map[string]int {
		all := map[string]int{}
		must(t, e.frontends.each(func(k meshFrontendKey, v meshFrontend) { all[keyString(k)] = int(v.Slots) }))
		return all
	}
	g, w := read(got), read(want)
	if len(g) != len(w) {
		t.Errorf("%v, want %v", g, w)
	}
	for k, slots := range w {
		if g[k] != slots {
			t.Errorf("frontend %s has %d slots, want %d", k, g[k], slots)
		}
	}
}

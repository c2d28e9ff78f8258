package probe

import (
	"slices"
	"strings"
	"testing"
)

// What others write into the judge's maps is found out, and stays known when the pod is
// no longer watched; what nobody touched is not accused.
func TestAlteredFromOutside(t *testing.T) {
	const n = 20
	for name, c := range map[string]struct {
		alter func(*testing.T, *Probe)
		names string // "": nothing is wrong
	}{
		"nothing": {func(*testing.T, *Probe) {}, ""},
		"all counters deleted": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool { must(t, p.objects.maps.Wire.Delete(e.key)); return false })
		}, "packets out at the pod's end"},
		"one counter deleted": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool { must(t, p.objects.maps.Wire.Delete(e.key)); return true })
		}, "the counters of packets"},
		"counters set to zero": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool { must(t, p.objects.maps.Wire.Put(e.key, probeWireValue{})); return false })
		}, "packets in at the host's end"},
		"one packet too many": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool {
				e.value.Packets++
				must(t, p.objects.maps.Wire.Put(e.key, e.value))
				return true
			})
		}, "the counters of packets"},
		"SYNs alone set to zero": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool {
				had := e.value.Syns > 0
				e.value.Syns = 0
				must(t, p.objects.maps.Wire.Put(e.key, e.value))
				return had
			})
		}, "the counters of packets"},
		"counters and totals set to zero": {func(t *testing.T, p *Probe) {
			changeWire(t, p, func(e wireEntry) bool { must(t, p.objects.maps.Wire.Delete(e.key)); return false })
			for _, e := range p.pods["client"].ends {
				must(t, p.objects.maps.Links.Put(e.key, probeLinkValue{Link: e.number, Pod: p.pods["client"].number}))
			}
		}, "packets out at the pod's end"},
		"a link deleted": {func(t *testing.T, p *Probe) {
			must(t, p.objects.maps.Links.Delete(p.pods["client"].ends[0].key))
		}, "in map links"},
		"a link of somebody else": {func(t *testing.T, p *Probe) {
			must(t, p.objects.maps.Links.Put(p.pods["client"].ends[0].key, probeLinkValue{Link: 77, Pod: 78}))
		}, "in map links"},
		"the pod deleted": {func(t *testing.T, p *Probe) {
			must(t, p.objects.maps.Watched.Delete(p.pods["client"].netns))
		}, "in map watched"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			g.listen(realPort)
			p := g.open(Options{})
			g.run(times(n, visit(at(server4, realPort))))
			lossless(t, settle(t, p))
			c.alter(t, p)
			for range 2 {
				l, err := p.Ledger(t.Context())
				must(t, err)
				wantAltered(t, l.Lost, c.names)
				if p.pods["client"] != nil {
					must(t, p.Remove("client"))
				}
			}
		})
	}
}

// changeWire hands each counter to change until that says that it is enough.
func changeWire(t *testing.T, p *Probe, change func(wireEntry) bool) {
	t.Helper()
	entries, err := readWire(p.objects.maps.Wire)
	must(t, err)
	if len(entries) == 0 {
		t.Fatal("nothing was counted: nothing can be shown")
	}
	for _, e := range entries {
		if change(e) {
			return
		}
	}
}

func wantAltered(t *testing.T, l Lost, names string) {
	t.Helper()
	if names == "" {
		if len(l.Altered) > 0 || !l.Whole() {
			t.Errorf("%s; want nothing altered", l)
		}
		return
	}
	named := slices.ContainsFunc(l.Altered, func(what string) bool {
		return strings.HasPrefix(what, "client: ") && strings.Contains(what, names)
	})
	if !named || l.Whole() || !strings.Contains(l.String(), names) {
		t.Errorf("%s; want %q altered", l, names)
	}
}

// The judge reads its counters while packets come: that is not to look like a change.
func TestNothingAlteredUnderLoad(t *testing.T) {
	g := newGround(t)
	g.listen(realPort)
	p := g.open(Options{})
	client := g.start(times(2000, visit(at(server4, realPort))))
	for range 50 {
		l, err := p.Ledger(t.Context())
		must(t, err)
		wantAltered(t, l.Lost, "")
	}
	client.finish()
	l := settle(t, p)
	lossless(t, l)
	if got := syns(l)[SidePod][at(server4, realPort)]; got != 2000 {
		t.Errorf("%d SYNs counted, want 2000", got)
	}
}

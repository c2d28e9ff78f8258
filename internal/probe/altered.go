package probe

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
)

// Whoever may call bpf(2) can write the judge's maps, and a counter that was emptied
// looks like a wire on which nothing passed. So each packet is counted twice more, in
// the link's own totals, before its counter in wire and after; and each SYN is an event
// as well. A sum or a counter that contradicts them was not made by packets.

// inspected reads the counters, and what is known to be wrong with the judge's maps.
func (p *Probe) inspected() ([]wireEntry, []string, error) {
	p.change.Lock()
	defer p.change.Unlock()
	entries, err := p.inspect(p.pods)
	if err != nil {
		return nil, nil, fmt.Errorf("what the judge has counted: %w", err)
	}
	slices.Sort(p.altered)
	return entries, slices.Clone(p.altered), nil
}

// inspect reads the counters and remembers for good what others changed of what the
// maps have of pods. p.change must be held.
func (p *Probe) inspect(pods map[string]*watched) ([]wireEntry, error) {
	p.mu.Lock()
	syns := maps.Clone(p.book.syns) // they were counted before they came
	p.mu.Unlock()
	before, err := p.totals(pods)
	if err != nil {
		return nil, err
	}
	entries, err := readWire(p.objects.maps.Wire)
	if err != nil {
		return nil, err
	}
	after, err := p.totals(pods)
	if err != nil {
		return nil, err
	}
	full, err := p.objects.counter(probeCounterCOUNTER_WIRE_FULL)
	if err != nil {
		return nil, err
	}
	if full > 0 {
		syns = nil // some came and found no room to be counted
	}
	t := tally(entries, syns)
	for pod, w := range pods {
		all := w.wrong(before, after, t)
		open, err := p.gated(w)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", pod, err)
		}
		if !open {
			all = append(all, fmt.Sprintf("its entry in map %s", probeMapWatched))
		}
		for _, what := range all {
			if what = pod + ": " + what; !slices.Contains(p.altered, what) {
				p.altered = append(p.altered, what)
			}
		}
	}
	return entries, nil
}

// hookOf is one hook of a link.
type hookOf struct {
	link uint32
	hook probeHook
}

// tallied is what the counters of one hook say together.
type tallied struct {
	packets uint64
	// fewer is set where a counter has fewer SYNs than came as events.
	fewer bool
}

func tally(entries []wireEntry, syns map[probeWireKey]uint64) map[hookOf]tallied {
	all := map[hookOf]tallied{}
	for _, e := range entries {
		at := hookOf{e.key.Link, probeHook(e.key.Hook)}
		t := all[at]
		t.packets += e.value.Packets
		t.fewer = t.fewer || e.value.Syns < syns[e.key]
		delete(syns, e.key)
		all[at] = t
	}
	for key := range syns { // without any counter
		at := hookOf{key.Link, probeHook(key.Hook)}
		all[at] = tallied{packets: all[at].packets, fewer: true}
	}
	return all
}

// totals reads the entries of the pods' links; one that has gone is not in them.
func (p *Probe) totals(pods map[string]*watched) (map[uint32]probeLinkValue, error) {
	all := map[uint32]probeLinkValue{}
	for pod, w := range pods {
		for _, e := range w.ends {
			var v probeLinkValue
			err := p.objects.maps.Links.Lookup(e.key, &v)
			switch {
			case errors.Is(err, ebpf.ErrKeyNotExist):
			case err != nil:
				return nil, fmt.Errorf("totals of a link of pod %s: %w", pod, err)
			case v.Link == e.number && v.Pod == w.number:
				all[e.number] = v
			}
		}
	}
	return all, nil
}

// wrong says what the counters of a pod's links cannot be if only packets made them.
func (w *watched) wrong(before, after map[uint32]probeLinkValue, t map[hookOf]tallied) []string {
	var all []string
	for _, e := range w.ends {
		first, known := before[e.number]
		last, still := after[e.number]
		if !known || !still {
			all = append(all, fmt.Sprintf("the entry of the %s's end of its link in map %s", e.side, probeMapLinks))
			continue
		}
		for hook, bounds := range map[probeHook][2]uint64{
			probeHookHOOK_INGRESS: {first.Ingress.Done, last.Ingress.Begun},
			probeHookHOOK_EGRESS:  {first.Egress.Done, last.Egress.Begun},
		} {
			sum := t[hookOf{e.number, hook}]
			if sum.packets < bounds[0] || sum.packets > bounds[1] || sum.fewer {
				all = append(all, fmt.Sprintf("the counters of packets %s at the %s's end of its link in map %s",
					e.side.direction(hook), e.side, probeMapWire))
			}
		}
	}
	return all
}

// gated reports whether a pod is still in the map of those that are watched.
func (p *Probe) gated(w *watched) (bool, error) {
	var number uint32
	err := p.objects.maps.Watched.Lookup(w.netns, &number)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("read map %s: %w", probeMapWatched, err)
	}
	return number == w.number, nil
}

package relay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// leaving is what istiod has taken away and Envoy keeps for a while: each thing for its
// own time, whatever comes meanwhile.
type leaving struct {
	gone map[string]goneCluster
	// copies are the hand-off listener as it was each time when chains left it, oldest
	// first.
	copies []goneCopy
}

type goneCluster struct {
	body  ads.Body
	until time.Time
}

type goneCopy struct {
	handOff *listener.Listener
	tables  ads.Set // its routes
	until   time.Time
}

// next is when the first of it is to go.
func (l leaving) next() (at time.Time, any bool) {
	for _, g := range l.gone {
		if !any || g.until.Before(at) {
			at, any = g.until, true
		}
	}
	for _, c := range l.copies {
		if !any || c.until.Before(at) {
			at, any = c.until, true
		}
	}
	return at, any
}

// keepClusters notes those that have left. r.mu must be held.
func (r *Relay) keepClusters(before, after map[string]held) {
	if r.config.Hold <= 0 {
		return
	}
	for name := range after {
		delete(r.leaving.gone, name)
	}
	for name, h := range before {
		if _, there := after[name]; !there {
			if r.leaving.gone == nil {
				r.leaving.gone = map[string]goneCluster{}
			}
			r.leaving.gone[name] = goneCluster{h.made(), time.Now().Add(r.config.Hold)}
		}
	}
}

// keepListener notes the copy that chains have left, with what they refer to. r.mu must be
// held.
func (r *Relay) keepListener(next View) {
	if r.config.Hold <= 0 || r.view.HandOff == nil || next.HandOff == nil {
		return
	}
	if chainsGone(r.view.HandOff, next.HandOff) {
		r.leaving.copies = append(r.leaving.copies, goneCopy{r.view.HandOff, r.view.Routes, time.Now().Add(r.config.Hold)})
	}
}

func chainsGone(before, after *listener.Listener) bool {
	return slices.ContainsFunc(before.FilterChains, func(c *listener.FilterChain) bool { return !hasChain(after, c.Name) })
}

func hasChain(l *listener.Listener, name string) bool {
	return slices.ContainsFunc(l.FilterChains, func(c *listener.FilterChain) bool { return c.Name == name })
}

func (l leaving) clusters(exact ads.Set) ads.Set {
	all := maps.Clone(exact)
	for name, g := range l.gone {
		if _, there := all[name]; !there {
			all[name] = g.body
		}
	}
	return all
}

func (l leaving) routes(exact ads.Set) ads.Set {
	all := ads.Set{}
	for _, c := range l.copies {
		maps.Copy(all, c.tables)
	}
	maps.Copy(all, exact)
	return all
}

// listeners are those of next, the copies joined with what has left them.
func (l leaving) listeners(exact ads.Set, next *listener.Listener, at Ports) ads.Set {
	if len(l.copies) == 0 || next == nil {
		return exact
	}
	joined := next
	for _, c := range slices.Backward(l.copies) {
		joined = join(joined, c.handOff)
	}
	all := maps.Clone(exact)
	for _, one := range at.handOffs(joined) {
		body, err := ads.NewBody(one)
		if err != nil {
			return exact // it is made of what was marshalled before
		}
		all[one.Name] = body
	}
	return all
}

// join adds to next the chains that only old has, and the way to them.
func join(next, old *listener.Listener) *listener.Listener {
	l := proto.Clone(next).(*listener.Listener)
	for _, c := range old.FilterChains {
		if !hasChain(next, c.Name) {
			l.FilterChains = append(l.FilterChains, c)
		}
	}
	to, from := addresses(l.FilterChainMatcher), addresses(old.FilterChainMatcher)
	if to == nil || from == nil {
		return l // a tree of another shape: what has left is refused at once
	}
	var mine, theirs xds.IPMatcher
	custom := to.GetMatcherTree().GetCustomMatch()
	if custom.TypedConfig.UnmarshalTo(&mine) != nil ||
		from.GetMatcherTree().GetCustomMatch().TypedConfig.UnmarshalTo(&theirs) != nil {
		return l
	}
	for _, r := range theirs.RangeMatchers {
		joinRange(&mine, r)
	}
	if packed, err := ads.Pack(&mine); err == nil {
		custom.TypedConfig = packed
	}
	return l
}

// joinRange adds an address, or the ports of one that is there.
func joinRange(to *xds.IPMatcher, r *xds.IPMatcher_IPRangeMatcher) {
	i := slices.IndexFunc(to.RangeMatchers, func(m *xds.IPMatcher_IPRangeMatcher) bool {
		return slices.EqualFunc(m.Ranges, r.Ranges, func(a, b *xdscore.CidrRange) bool { return proto.Equal(a, b) })
	})
	if i < 0 {
		to.RangeMatchers = append(to.RangeMatchers, r)
		return
	}
	have := to.RangeMatchers[i].GetOnMatch().GetMatcher().GetMatcherTree().GetExactMatchMap()
	for port, on := range r.GetOnMatch().GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap() {
		if have != nil && have.Map[port] == nil {
			have.Map[port] = on
		}
	}
}

// addresses finds the matcher that chooses by destination address: the whole, or what
// stands behind the check of the own port.
func addresses(m *xds.Matcher) *xds.Matcher {
	for m != nil {
		if c := m.GetMatcherTree().GetCustomMatch(); c != nil && c.TypedConfig.MessageIs((*xds.IPMatcher)(nil)) {
			return m
		}
		m = m.GetOnNoMatch().GetMatcher()
	}
	return nil
}

// trimLater takes what has left away, each thing when its time is over. r.mu must be
// held.
func (r *Relay) trimLater(ctx context.Context) {
	if _, any := r.leaving.next(); !any || r.trimming {
		return
	}
	r.trimming = true
	// It is not the stream's business: what has left goes also when istiod is away.
	later, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.trim = stop
	r.wg.Go(func() {
		for r.trimNext(later) {
		}
	})
}

// trimNext waits for the first of what has left, takes it away and reports whether there
// is more.
func (r *Relay) trimNext(ctx context.Context) bool {
	r.mu.Lock()
	at, any := r.leaving.next()
	r.trimming = any
	r.mu.Unlock()
	if !any {
		return false
	}
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	r.letGo(ctx, time.Now())
	return ctx.Err() == nil
}

// letGo takes away what was to go by some time: first the way to it, then what it leads
// to.
func (r *Relay) letGo(ctx context.Context, now time.Time) {
	r.mu.Lock()
	before := len(r.leaving.copies)
	r.leaving.copies = slices.DeleteFunc(r.leaving.copies, func(c goneCopy) bool { return !c.until.After(now) })
	if len(r.leaving.copies) < before {
		r.serve(ads.Listeners)
	}
	r.mu.Unlock()
	// Whether Envoy has refused something else does not matter here, and one that is not
	// there sees no order.
	var refused ads.RefusedError
	if r.server.Connected() {
		if err := r.server.Settle(ctx, nil, ads.Listeners); err != nil && !errors.As(err, &refused) {
			return // ctx has ended
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.leaving.gone, func(_ string, g goneCluster) bool { return !g.until.After(now) })
	r.serve(ads.Clusters)
}

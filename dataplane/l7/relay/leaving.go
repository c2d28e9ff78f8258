package relay

import (
	"context"
	"maps"
	"slices"
	"time"

	xdscore "github.com/cncf/xds/go/xds/core/v3"
	xds "github.com/cncf/xds/go/xds/type/matcher/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
)

// leaving is what istiod has taken away and Envoy keeps for a while.
type leaving struct {
	gone    ads.Set // clusters
	tables  ads.Set // routes
	handOff *listener.Listener
}

func (l leaving) any() bool { return len(l.gone) > 0 || l.handOff != nil }

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
				r.leaving.gone = ads.Set{}
			}
			r.leaving.gone[name] = ads.BodyOf(h.body)
		}
	}
}

// keepListener notes the chains of the copy that have left, with what they refer to.
// r.mu must be held.
func (r *Relay) keepListener(next View) {
	if r.config.Hold <= 0 || r.view.HandOff == nil || next.HandOff == nil {
		return
	}
	before := r.view.HandOff
	if r.leaving.handOff != nil {
		before = r.leaving.handOff // joined with what left before it
	}
	if chainsGone(before, next.HandOff) {
		r.leaving.handOff = before
		tables := maps.Clone(r.view.Routes)
		maps.Copy(tables, r.leaving.tables)
		r.leaving.tables = tables
	}
}

func chainsGone(before, after *listener.Listener) bool {
	return slices.ContainsFunc(before.FilterChains, func(c *listener.FilterChain) bool { return !hasChain(after, c.Name) })
}

func hasChain(l *listener.Listener, name string) bool {
	return slices.ContainsFunc(l.FilterChains, func(c *listener.FilterChain) bool { return c.Name == name })
}

func (l leaving) clusters(exact ads.Set) ads.Set { return over(l.gone, exact) }

func (l leaving) routes(exact ads.Set) ads.Set { return over(l.tables, exact) }

// over is old with next in its place where both have a name.
func over(old, next ads.Set) ads.Set {
	all := maps.Clone(old)
	if all == nil {
		all = ads.Set{}
	}
	maps.Copy(all, next)
	return all
}

// listeners are those of next, the copies joined with what has left them.
func (l leaving) listeners(exact ads.Set, next *listener.Listener, at Ports) ads.Set {
	if l.handOff == nil || next == nil {
		return exact
	}
	all := maps.Clone(exact)
	for _, joined := range at.handOffs(join(next, l.handOff)) {
		body, err := ads.NewBody(joined)
		if err != nil {
			return exact // it is made of what was marshalled before
		}
		all[joined.Name] = body
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

// trimLater takes what has left away once nobody is redirected to it any more. r.mu
// must be held.
func (r *Relay) trimLater(ctx context.Context) {
	r.trim()
	// It is not the stream's business: what has left goes also when istiod is away.
	later, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.trim = stop
	r.wg.Go(func() {
		timer := time.NewTimer(r.config.Hold)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-later.Done():
			return
		}
		r.letGo(later)
	})
}

// letGo takes away what has left: first the way to it, then what it leads to.
func (r *Relay) letGo(ctx context.Context) {
	r.mu.Lock()
	r.leaving.handOff, r.leaving.tables = nil, nil
	r.serve(ads.Listeners)
	r.mu.Unlock()
	if err := r.server.Settle(ctx, nil, ads.Listeners); err != nil {
		if ctx.Err() == nil {
			r.config.Log.Error("what has left the configuration could not be taken away", "error", err)
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving.gone = nil
	r.serve(ads.Clusters)
}

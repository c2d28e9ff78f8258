package relay

import (
	"context"
	"errors"
	"maps"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// settled waits for Envoy's answer to a type. It is nil when Envoy has taken it.
func (r *Relay) settled(ctx context.Context, t string) error {
	r.mu.Lock()
	all := r.exact()
	r.mu.Unlock()
	need := ads.State{}
	types := []string{t}
	if whole(t) {
		need[t] = all[t]
	}
	if t == ads.Listeners {
		need[ads.Routes] = all[ads.Routes]
		types = append(types, ads.Routes)
	}
	return r.server.Settle(ctx, need, types...)
}

// answer sends istiod Envoy's answer once it is there. Only the newest of a type is
// waited for.
func (r *Relay) answer(ctx context.Context, m *discovery.DeltaDiscoveryResponse, send func(err error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.await(ctx, m.TypeUrl, m.TypeUrl, m.SystemVersionInfo, send)
}

// await notes Envoy's answer to what is served of a type, and then calls then with it;
// another wait of the same name takes its place. version is istiod's, "" where what is
// served anew came earlier. r.mu must be held.
func (r *Relay) await(ctx context.Context, name, t, version string, then func(err error)) {
	if stop := r.answers[name]; stop != nil {
		stop()
	}
	one, stop := context.WithCancel(ctx)
	r.answers[name] = stop
	view := r.view // another may take its place before Envoy's answer is there
	r.wg.Go(func() {
		defer stop()
		err := r.settled(one, t)
		if one.Err() != nil {
			return
		}
		var refused ads.RefusedError
		if errors.As(err, &refused) {
			r.config.Log.Error("Envoy refuses what istiod sent; it keeps what it has", "error", err)
			r.refuse(t, err.Error())
		} else {
			r.taken(t, version, view)
		}
		then(err)
	})
}

// refuse notes why a type was not taken whole.
func (r *Relay) refuse(t, reason string) {
	r.note(func(s *State) {
		r.refused[t] = reason
		s.Refused = r.refusals()
	})
}

// refusals joins the reasons of all types. r.mu must be held.
func (r *Relay) refusals() string {
	var all []string
	for _, t := range asked {
		if r.refused[t] != "" {
			all = append(all, r.refused[t])
		}
	}
	return strings.Join(all, "; ")
}

// taken notes that Envoy has taken what is served of a type, which a view was made of.
func (r *Relay) taken(t, version string, view View) {
	r.note(func(s *State) {
		delete(r.refused, t)
		if s.Refused = r.refusals(); version != "" {
			s.Taken = version
		}
		if t == ads.Listeners && view.made >= r.taking {
			r.taking, s.Listens = view.made, true
			s.Hosts, s.Unusable, s.Workloads, r.good = view.Hosts, view.Refused, view.Workloads, view.Routes
			r.server.Set(ads.Routes, r.routes())
		}
		s.Changes = r.changes()
	})
}

// changes counts what was changed of listeners and clusters. r.mu must be held.
func (r *Relay) changes() []api.Change {
	counts := maps.Clone(r.view.counts)
	if counts == nil {
		counts = map[string]int{}
	}
	for _, h := range r.raw[ads.Clusters] {
		for kind, n := range h.changes {
			counts[kind] += n
		}
	}
	return r.transformer.rules.list(counts)
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Config is who asks whom.
type Config struct {
	// Istiod is where the configuration comes from, and Node who asks.
	Istiod istiod.Server
	Node   *core.Node
	// Port is the hand-off port, in host byte order.
	Port uint16
	// Hold is how long what has left the configuration stays: clients that were
	// redirected a moment ago still come.
	Hold time.Duration
	Log  *slog.Logger
}

// Relay holds what istiod sent, and serves it to an Envoy as it must be.
type Relay struct {
	config      Config
	transformer *Transformer
	server      *ads.Server

	mu      sync.Mutex
	raw     map[string]map[string]held // what istiod sent, by type and name
	view    View
	leaving leaving
	state   State
	notify  chan struct{}
	answers map[string]context.CancelFunc // by type: who waits for Envoy
	trim    context.CancelFunc
	wg      sync.WaitGroup
}

// held is a resource as istiod sent it.
type held struct {
	version string
	body    *anypb.Any
}

// State is how far the Relay is.
type State struct {
	// Connected is set while a stream to istiod is open; Error says why there is none.
	Connected bool
	Error     string
	// Seen is istiod's version of what came last, Taken of what Envoy has taken last;
	// Refused is Envoy's reason for refusing.
	Seen, Taken, Refused string
	// Hosts are the services with a chain, Unusable the chains that a connection without
	// a principal may not use.
	Hosts, Unusable []string
	Changes         []api.Change
}

// New makes a Relay; Run makes it work.
func New(c Config) (*Relay, error) {
	t, err := NewTransformer(c.Port)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		config: c, transformer: t, server: ads.NewServer(),
		raw: map[string]map[string]held{}, notify: make(chan struct{}), answers: map[string]context.CancelFunc{},
		trim: func() {},
	}
	r.state.Changes = t.rules.list(nil)
	for _, typ := range asked {
		r.raw[typ] = map[string]held{}
	}
	return r, nil
}

// asked are the types that istiod is asked for, in this order: two of them whole, the
// others by the names that Envoy asks for.
var asked = [...]string{ads.Clusters, ads.Endpoints, ads.Listeners, ads.Extensions}

func whole(t string) bool { return t == ads.Clusters || t == ads.Listeners }

// Register adds what Envoy asks.
func (r *Relay) Register(s *grpc.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(s, r.server)
}

// State returns how far the Relay is, and what is closed when that has changed.
func (r *Relay) State() (State, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.notify
}

func (r *Relay) note(change func(s *State)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
	close(r.notify)
	r.notify = make(chan struct{})
}

// Run keeps a stream to istiod open until ctx ends. Envoy's own stream stays open
// meanwhile.
func (r *Relay) Run(ctx context.Context) error {
	conn, err := r.config.Istiod.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer func() {
		r.mu.Lock()
		r.trim()
		r.mu.Unlock()
		r.wg.Wait()
	}()
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval = 250*time.Millisecond, 15*time.Second
	for {
		s := &stream{relay: r}
		delivered, err := s.run(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if delivered {
			waits.Reset()
		}
		wait := waits.NextBackOff()
		r.note(func(s *State) { s.Connected, s.Error = false, err.Error() })
		r.config.Log.Warn("no stream to istiod; Envoy keeps what it has", "error", err, "again in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// take makes an answer of istiod part of what is served.
func (r *Relay) take(ctx context.Context, m *discovery.DeltaDiscoveryResponse) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, known := r.raw[m.TypeUrl]
	if !known {
		return fmt.Errorf("type %s was not asked for", m.TypeUrl)
	}
	next := maps.Clone(have)
	for _, res := range m.Resources {
		body := res.Resource
		if m.TypeUrl == ads.Clusters {
			var err error
			if body, err = r.transformer.Cluster(body); err != nil {
				return fmt.Errorf("cluster %s: %w", res.Name, err)
			}
		}
		next[res.Name] = held{res.Version, body}
	}
	for _, name := range m.RemovedResources {
		delete(next, name)
	}
	if m.TypeUrl == ads.Listeners {
		view, err := r.transformer.Transform(bodies(next))
		if err != nil {
			return err
		}
		r.keepListener(view)
		r.view = view
	}
	if m.TypeUrl == ads.Clusters {
		r.keepClusters(have, next)
	}
	r.raw[m.TypeUrl] = next
	r.serve(m.TypeUrl)
	if r.leaving.any() {
		r.trimLater(ctx)
	}
	return nil
}

func bodies(all map[string]held) map[string]*anypb.Any {
	out := map[string]*anypb.Any{}
	for name, h := range all {
		out[name] = h.body
	}
	return out
}

// serve gives Envoy what is held of a type. r.mu must be held.
func (r *Relay) serve(t string) {
	all := r.exact()
	switch t {
	case ads.Listeners:
		r.server.Set(ads.Clusters, r.leaving.clusters(all[ads.Clusters]))
		r.server.Set(ads.Routes, r.leaving.routes(all[ads.Routes]))
		r.server.Set(ads.Listeners, r.leaving.listeners(all[ads.Listeners], r.view.HandOff))
	case ads.Clusters:
		r.server.Set(ads.Clusters, r.leaving.clusters(all[ads.Clusters]))
	default:
		r.server.Set(t, all[t])
	}
}

// exact is what istiod's resources come to, without what has left. r.mu must be held.
func (r *Relay) exact() ads.State {
	all := ads.State{ads.Listeners: r.view.Listeners, ads.Routes: r.view.Routes}
	for _, t := range [...]string{ads.Clusters, ads.Endpoints, ads.Extensions} {
		all[t] = ads.Set{}
		for name, h := range r.raw[t] {
			all[t][name] = ads.BodyOf(h.body)
		}
	}
	maps.Copy(all[ads.Clusters], r.view.Clusters)
	return all
}

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
	if stop := r.answers[m.TypeUrl]; stop != nil {
		stop()
	}
	one, stop := context.WithCancel(ctx)
	r.answers[m.TypeUrl] = stop
	r.wg.Go(func() {
		defer stop()
		err := r.settled(one, m.TypeUrl)
		if one.Err() != nil {
			return
		}
		var refused ads.RefusedError
		if errors.As(err, &refused) {
			r.config.Log.Error("Envoy refuses what istiod sent; it keeps what it has", "error", err)
			r.note(func(s *State) { s.Refused = err.Error() })
		} else {
			r.taken(m)
		}
		send(err)
	})
}

func (r *Relay) taken(m *discovery.DeltaDiscoveryResponse) {
	r.mu.Lock()
	view := r.view
	r.mu.Unlock()
	r.note(func(s *State) {
		s.Taken, s.Refused = m.SystemVersionInfo, ""
		if m.TypeUrl == ads.Listeners {
			s.Hosts, s.Unusable, s.Changes = view.Hosts, view.Refused, view.Changes
		}
	})
}

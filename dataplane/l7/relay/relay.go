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
	"github.com/duomesh/duomesh/dataplane/l7/render"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Config is who asks whom.
type Config struct {
	// Istiod is where the configuration comes from, and Node who asks.
	Istiod istiod.Server
	Node   *core.Node
	Ports
	// Hold is how long what has left the configuration stays: clients that were
	// redirected a moment ago still come.
	Hold time.Duration
	// ByAddress gives what was handed over the principal of the workload that has the
	// source's address. Without, it has none.
	ByAddress bool
	// Idle is how long istiod may name no service before it is asked anew, the first time;
	// 0 is 5 s. Why: see idle.
	Idle time.Duration
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
	good    ads.Set // the routes of the listeners that Envoy has taken last
	taking  uint64  // which view those were made of
	leaving leaving
	state   State
	notify  chan struct{}
	answers map[string]context.CancelFunc // by type: who waits for Envoy
	trim    context.CancelFunc
	// trimming is set while somebody waits to take away what has left.
	trimming bool
	refused  map[string]string // by type: why Envoy has not taken it whole
	// life is Run's context; nil before.
	life context.Context
	// listen makes istiod tell who has which address, once; nil before Run.
	listen func()
	wg     sync.WaitGroup
}

// held is a resource as istiod sent it, but for what was changed of a cluster; own is the
// version that its bytes give it.
type held struct {
	version string
	body    *anypb.Any
	own     string
	changes map[string]int // by kind
}

func (h held) made() ads.Body { return ads.Body{Version: h.own, Any: h.body} }

// State is how far the Relay is.
type State struct {
	// Connected is set while a stream to istiod is open; Error says why there is none.
	Connected bool
	Error     string
	// Seen is istiod's version of what came last, Taken of what Envoy has taken last;
	// Refused is Envoy's reason for refusing.
	Seen, Taken, Refused string
	// Listens is set once Envoy has taken listeners.
	Listens bool
	// Hosts are the services with a chain, Unusable the chains that a connection without
	// a principal may not use.
	Hosts, Unusable []string
	// Workloads is how many ways lead to workloads' own addresses.
	Workloads int
	Changes   []api.Change
}

// New makes a Relay; Run makes it work.
func New(c Config) (*Relay, error) {
	t, err := NewTransformer(c.Ports)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		config: c, transformer: t, server: ads.NewServer(),
		raw: map[string]map[string]held{}, notify: make(chan struct{}), answers: map[string]context.CancelFunc{},
		trim: func() {}, refused: map[string]string{},
	}
	t.workloads = newSources(c.Node.GetMetadata().GetFields()["NETWORK"].GetStringValue(), c.Log, r.regroup)
	if c.ByAddress {
		t.sources = t.workloads
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

// Withhold keeps the hand-off listener from Envoy, or takes it back, until it is called
// again.
func (r *Relay) Withhold(yes bool) { r.server.Withhold(render.HandOffListener, yes) }

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
	r.tell()
}

// tell wakes those who wait for another State. r.mu must be held.
func (r *Relay) tell() {
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
	r.mu.Lock()
	r.life = ctx
	r.listen = sync.OnceFunc(func() {
		who := istiod.Subscription{Node: r.config.Node, Types: []string{workloadType}, Token: r.config.Istiod.Token}
		r.wg.Go(func() {
			_ = who.Run(ctx, conn, r.transformer.workloads) // it ends with ctx alone
		})
	})
	if r.config.ByAddress {
		r.listen()
	}
	r.mu.Unlock()
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval = 250*time.Millisecond, 15*time.Second
	idle := newIdle(r.config.Idle)
	for again := false; ; again = true {
		s := &stream{relay: r, again: again}
		delivered, err := s.run(ctx, conn, idle)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errIdle) {
			r.config.Log.Info("istiod names no service of this waypoint, and is asked anew")
			continue
		}
		if delivered {
			waits.Reset()
		}
		wait := waits.NextBackOff()
		err = istiod.Explain(err, r.config.Istiod.Token)
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
		h := held{version: res.Version, body: res.Resource}
		if m.TypeUrl == ads.Clusters {
			var err error
			if h.body, h.changes, err = r.transformer.cluster(res.Resource); err != nil {
				return fmt.Errorf("cluster %s: %w", res.Name, err)
			}
		}
		h.own = ads.BodyOf(h.body).Version
		next[res.Name] = h
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
		r.see(view)
		if view.Workloads > 0 {
			r.listen() // how to reach them
		}
	}
	if m.TypeUrl == ads.Clusters {
		r.keepClusters(have, next)
	}
	r.raw[m.TypeUrl] = next
	r.serve(m.TypeUrl)
	r.trimLater(ctx)
	return nil
}

// regroup makes the listeners anew when another has an address, or takes HBONE or not.
func (r *Relay) regroup() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.raw[ads.Listeners]) == 0 {
		return
	}
	view, err := r.transformer.Transform(bodies(r.raw[ads.Listeners]))
	if err != nil {
		r.config.Log.Error("the listeners could not be made anew for other sources", "error", err)
		return
	}
	r.see(view)
	r.serve(ads.Listeners)
	r.state.Changes = r.changes()
	r.tell()
	if r.life != nil {
		r.await(r.life, regrouped, ads.Listeners, "", func(error) {})
	}
}

// regrouped is the name of the wait for Envoy's answer to listeners that were made anew.
const regrouped = "regrouped"

// see makes a view the one that is served. r.mu must be held.
func (r *Relay) see(view View) {
	view.made = r.view.made + 1
	r.view = view
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
		r.server.Set(ads.Routes, r.routes())
		r.server.Set(ads.Listeners, r.leaving.listeners(all[ads.Listeners], r.view.HandOff, r.config.Ports))
	case ads.Clusters:
		r.server.Set(ads.Clusters, r.leaving.clusters(all[ads.Clusters]))
	default:
		r.server.Set(t, all[t])
	}
}

// routes are those of the listeners as they are to be, of those that Envoy has as long as
// it has not taken these, and of what has left. r.mu must be held.
func (r *Relay) routes() ads.Set {
	all := maps.Clone(r.good)
	if all == nil {
		all = ads.Set{}
	}
	maps.Copy(all, r.leaving.routes(r.view.Routes))
	return all
}

// exact is what istiod's resources come to, without what has left. r.mu must be held.
func (r *Relay) exact() ads.State {
	all := ads.State{ads.Listeners: r.view.Listeners, ads.Routes: r.view.Routes}
	for _, t := range [...]string{ads.Clusters, ads.Endpoints, ads.Extensions} {
		all[t] = ads.Set{}
		for name, h := range r.raw[t] {
			all[t][name] = h.made()
		}
	}
	maps.Copy(all[ads.Clusters], r.view.Clusters)
	return all
}

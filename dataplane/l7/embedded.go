package l7

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/dataplane/l7/render"
)

// Update is what a source has to say: a Snapshot and its version, or why there is none.
type Update struct {
	Snapshot intent.Snapshot
	Version  string
	Err      error
}

// Embedded is the control plane that needs no istiod: Snapshots in, Envoy's
// configuration out.
type Embedded struct {
	config  render.Config
	hold    time.Duration
	log     *slog.Logger
	server  *ads.Server
	updates <-chan Update
	name    string

	mu     sync.Mutex
	state  api.Source
	hosts  []string
	now    render.Rendered // what Envoy has taken last
	left   []leftover      // oldest first
	notify chan struct{}
}

// leftover is what Envoy had before, and keeps for a while: each for its own time,
// whatever comes meanwhile.
type leftover struct {
	rendered    render.Rendered
	born, until time.Time
}

// NewEmbedded renders what comes from updates, for the waypoint of c at the given place.
// name is that of the source, for people.
func NewEmbedded(c Config, place intent.Place, name string, updates <-chan Update) *Embedded {
	c = c.withDefaults()
	return &Embedded{
		config: render.Config{Waypoint: c.Name, Place: place, Port: c.port(), ProxyPort: c.ProxyPort, Expose: c.Expose},
		hold:   c.Hold, log: c.Log, server: ads.NewServer(), updates: updates, name: name,
		state: api.Source{Name: name}, notify: make(chan struct{}),
	}
}

func (e *Embedded) register(s *grpc.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(s, e.server)
}

func (e *Embedded) withhold(yes bool) { e.server.Withhold(render.HandOffListener, yes) }

func (*Embedded) secrets(*grpc.Server) bool { return false }

func (*Embedded) changes() []api.Change { return nil }

func (*Embedded) close() error { return nil }

func (e *Embedded) changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.notify
}

func (e *Embedded) source() api.Source {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

func (e *Embedded) served() (hosts []string, any bool, waiting string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.state.Applied == "" && e.state.Problem != "":
		return nil, false, e.state.Problem
	case e.state.Applied == "":
		return nil, false, "its first configuration from " + e.name
	case len(e.hosts) == 0:
		return nil, false, "a service that goes through " + e.config.Waypoint + ": " + e.name + " has none"
	}
	return e.hosts, true, ""
}

// note changes what is said of the source.
func (e *Embedded) note(change func(s *api.Source)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.state)
	close(e.notify)
	e.notify = make(chan struct{})
}

// run gives Envoy one update after the other. One that comes while Envoy has not yet
// taken the last takes its place.
func (e *Embedded) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cancelLast := func() {}
	for {
		select {
		case <-ctx.Done():
			cancelLast()
			return nil
		case u, open := <-e.updates:
			if !open {
				<-ctx.Done()
				cancelLast()
				return nil
			}
			cancelLast()
			wg.Wait()
			one, stop := context.WithCancel(ctx)
			cancelLast = stop
			wg.Go(func() { e.take(one, u) })
		}
	}
}

func (e *Embedded) take(ctx context.Context, u Update) {
	e.note(func(s *api.Source) { s.Seen = u.Version })
	err := u.Err
	var next render.Rendered
	if err == nil {
		next, err = e.config.Render(u.Snapshot)
	}
	if err == nil {
		err = e.publish(ctx, next)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // a newer one has come
	}
	if err != nil {
		goesOn := "the last one goes on"
		if e.source().Applied == "" {
			goesOn = "there is none before it, and it is not ready until one comes"
		}
		e.log.Error("a configuration was not taken; "+goesOn, "source", e.name, "version", u.Version, "error", err)
		e.note(func(s *api.Source) { s.Problem = err.Error() })
		return
	}
	hosts := e.hostnames(u.Snapshot)
	e.mu.Lock()
	e.hosts = hosts
	e.mu.Unlock()
	e.note(func(s *api.Source) { s.Applied, s.Problem = u.Version, "" })
	e.log.Info("Envoy has the configuration", "version", u.Version, "services", len(hosts))
	e.trim(ctx, next)
}

func (e *Embedded) hostnames(s intent.Snapshot) []string {
	var all []string
	for _, svc := range e.config.Services(s) {
		if svc.Hostname != "" {
			all = append(all, svc.Hostname)
		} else {
			all = append(all, svc.Key())
		}
	}
	return all
}

// publish gives Envoy what is new, and leaves what has gone.
func (e *Embedded) publish(ctx context.Context, next render.Rendered) error {
	e.mu.Lock()
	all := joined(next.With(e.now), e.left)
	e.mu.Unlock()
	state, err := all.State()
	if err != nil {
		return err
	}
	if err := e.server.Publish(ctx, state); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left = leaves(e.left, e.now, time.Now(), max(e.hold, 0))
	e.now = next
	return nil
}

// joined adds what is left of before.
func joined(now render.Rendered, left []leftover) render.Rendered {
	for _, l := range slices.Backward(left) {
		now = now.With(l.rendered)
	}
	return now
}

// leaves notes what was there until now. What comes close together leaves together: a
// source that changes often does not make this long.
func leaves(left []leftover, before render.Rendered, now time.Time, hold time.Duration) []leftover {
	if n := len(left) - 1; n >= 0 && now.Sub(left[n].born) < hold/10 {
		left[n].rendered, left[n].until = before.With(left[n].rendered), now.Add(hold)
		return left
	}
	return append(left, leftover{before, now, now.Add(hold)})
}

// trim takes away what has gone, each when nobody is redirected to it any more, until
// there is nothing of that, or ctx ends.
func (e *Embedded) trim(ctx context.Context, next render.Rendered) {
	for {
		e.mu.Lock()
		if len(e.left) == 0 {
			e.mu.Unlock()
			return
		}
		first := e.left[0].until
		e.mu.Unlock()
		timer := time.NewTimer(time.Until(first))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		now := time.Now()
		e.mu.Lock()
		e.left = slices.DeleteFunc(e.left, func(l leftover) bool { return !l.until.After(now) })
		all := joined(next, e.left)
		e.mu.Unlock()
		state, err := all.State()
		if err == nil {
			err = e.server.Trim(ctx, state)
		}
		if err != nil {
			if ctx.Err() == nil {
				e.log.Error("what has left the configuration could not be taken away", "error", err)
			}
			return
		}
	}
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// stream is one stream to istiod.
type stream struct {
	relay *Relay
	again bool // there was one before
	// sending: answers come when Envoy has made up its mind.
	sending sync.Mutex
	up      discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
}

// run runs the stream to its end, and reports whether it has delivered anything. The
// error is errIdle when it was ended because istiod names no service.
func (s *stream) run(ctx context.Context, conn grpc.ClientConnInterface, idle *idle) (delivered bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	cancel := func() { end(nil) }
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s.up, err = discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return false, fmt.Errorf("istiod: %w", err)
	}
	named, err := s.begin()
	if err != nil {
		return false, s.cause(err)
	}
	wg.Go(func() {
		s.follow(ctx, named)
		cancel()
	})
	wg.Go(func() {
		if idle.wait(ctx, s.relay) {
			end(errIdle)
		}
	})
	for {
		m, err := s.up.Recv()
		if errors.Is(context.Cause(ctx), errIdle) {
			return delivered, errIdle
		}
		if err != nil {
			return delivered, fmt.Errorf("istiod: %w", err)
		}
		if !delivered && s.again {
			s.relay.config.Log.Info("istiod answers again")
		}
		delivered = true
		s.receive(ctx, m)
	}
}

// begin asks for everything, and says what is there already. It returns the names that it
// has asked for, by type.
func (s *stream) begin() (map[string][]string, error) {
	named := map[string][]string{}
	for i, t := range asked {
		names, _, _ := s.relay.server.Asked(t)
		named[t] = names
		if whole(t) {
			names = []string{"*"}
		}
		if len(names) == 0 {
			continue // asked for when Envoy does
		}
		q := &discovery.DeltaDiscoveryRequest{
			TypeUrl: t, ResourceNamesSubscribe: names, InitialResourceVersions: s.relay.versions(t),
		}
		if i == 0 {
			q.Node = s.relay.config.Node
		}
		if err := s.send(q); err != nil {
			return nil, err
		}
	}
	s.relay.note(func(st *State) { st.Connected, st.Error = true, "" })
	return named, nil
}

// versions are those of what is held of a type.
func (r *Relay) versions(t string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]string{}
	for name, h := range r.raw[t] {
		out[name] = h.version
	}
	return out
}

func (s *stream) send(q *discovery.DeltaDiscoveryRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.up.Send(q)
}

// cause is why a stream could not be written to: only reading tells.
func (s *stream) cause(err error) error {
	if _, read := s.up.Recv(); read != nil {
		err = read
	}
	return fmt.Errorf("istiod: %w", err)
}

// follow asks for, and no longer for, what Envoy names; have was asked for before.
func (s *stream) follow(ctx context.Context, have map[string][]string) {
	for {
		var changed <-chan struct{}
		for _, t := range asked {
			if whole(t) {
				continue
			}
			var names []string
			var all bool
			names, all, changed = s.relay.server.Asked(t)
			if !all {
				// One that is started again asks for the same by and by: until then
				// nothing is let go of, so that it has all of it from memory.
				names = slices.Concat(have[t], names)
				slices.Sort(names)
				names = slices.Compact(names)
			}
			if s.differ(t, have[t], names) != nil {
				return
			}
			have[t] = names
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// differ asks istiod for the difference of two lists of names.
func (s *stream) differ(t string, before, after []string) error {
	q := &discovery.DeltaDiscoveryRequest{TypeUrl: t}
	for _, name := range after {
		if !slices.Contains(before, name) {
			q.ResourceNamesSubscribe = append(q.ResourceNamesSubscribe, name)
		}
	}
	for _, name := range before {
		if !slices.Contains(after, name) {
			q.ResourceNamesUnsubscribe = append(q.ResourceNamesUnsubscribe, name)
		}
	}
	if len(q.ResourceNamesSubscribe)+len(q.ResourceNamesUnsubscribe) == 0 {
		return nil
	}
	s.relay.forget(t, q.ResourceNamesUnsubscribe)
	return s.send(q)
}

// forget drops what nobody asks for any more.
func (r *Relay) forget(t string, names []string) {
	if len(names) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		delete(r.raw[t], name)
	}
	r.serve(t)
}

// receive takes one answer, and tells istiod what Envoy thinks of it.
func (s *stream) receive(ctx context.Context, m *discovery.DeltaDiscoveryResponse) {
	s.relay.config.Log.Debug("istiod sends", "type", m.TypeUrl, "resources", len(m.Resources),
		"removed", m.RemovedResources, "version", m.SystemVersionInfo)
	s.relay.note(func(st *State) { st.Seen = m.SystemVersionInfo })
	reply := func(err error) {
		q := &discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce}
		if err != nil {
			q.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		}
		// One that cannot be sent is on a stream that has ended.
		_ = s.send(q)
	}
	if err := s.relay.take(ctx, m); err != nil {
		s.relay.config.Log.Error("what istiod sent cannot be used", "type", m.TypeUrl, "error", err)
		s.relay.refuse(m.TypeUrl, err.Error())
		reply(err)
		return
	}
	s.relay.answer(ctx, m, reply)
}

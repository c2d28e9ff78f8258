package ads

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Server serves one Envoy. Its zero value is not usable: see NewServer.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	mu       sync.Mutex
	state    State
	verdicts map[string]*Verdicts // by type
	withheld map[string]bool      // listeners that are not served, by name
	// stream is the newest one; an Envoy that was restarted opens another.
	stream *stream
	// changed is closed, and replaced, when anything above has changed.
	changed chan struct{}
}

// NewServer serves nothing until Publish.
func NewServer() *Server {
	s := &Server{state: State{}, verdicts: map[string]*Verdicts{}, withheld: map[string]bool{}, changed: make(chan struct{})}
	for _, t := range order {
		s.verdicts[t] = NewVerdicts()
	}
	return s
}

// order is that of sending.
var order = [...]string{Clusters, Endpoints, Listeners, Routes, Extensions}

// RefusedError is Envoy's reason for not taking a configuration. It goes on with the
// last one.
type RefusedError struct {
	// Kind is the type, for example "Listener"; Reason is Envoy's.
	Kind, Reason string
}

// Error implements error.
func (r RefusedError) Error() string {
	return fmt.Sprintf("Envoy refuses the %s resources: %s", strings.ToLower(r.Kind), strings.TrimSpace(r.Reason))
}

// Publish makes next what is served, in the order in which no request meets a name
// that is not there yet: what is referred to first, then what refers to it. What is
// not in next stays until Trim. It returns when Envoy has taken everything; when ctx
// ends before that, next is still what is served.
func (s *Server) Publish(ctx context.Context, next State) error {
	s.mu.Lock()
	union := State{}
	for _, t := range order {
		union[t] = Set{}
		maps.Copy(union[t], s.state[t])
		maps.Copy(union[t], next[t])
	}
	s.mu.Unlock()
	for _, stage := range [][]string{{Clusters, Endpoints}, {Listeners, Routes, Extensions}} {
		for _, t := range stage {
			s.Set(t, union[t])
		}
		if err := s.Settle(ctx, next, stage...); err != nil {
			return err
		}
	}
	return nil
}

// Trim takes away what is not in next. What refers goes before what is referred to.
func (s *Server) Trim(ctx context.Context, next State) error {
	for _, stage := range [][]string{{Listeners}, {Routes, Extensions}, {Clusters, Endpoints}} {
		for _, t := range stage {
			s.Set(t, next[t])
		}
		if err := s.Settle(ctx, next, stage...); err != nil {
			return err
		}
	}
	return nil
}

// Set makes have all resources of a type, at once and without waiting.
func (s *Server) Set(t string, have Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have == nil {
		have = Set{}
	}
	s.state[t] = have
	s.wake()
}

// Withhold keeps a listener from Envoy, or takes it back, until it is called again.
func (s *Server) Withhold(name string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.withheld[name] == yes {
		return
	}
	s.withheld[name] = yes
	s.wake()
}

// offered is what of a type Envoy may have. s.mu must be held.
func (s *Server) offered(t string, all Set) Set {
	if t != Listeners {
		return all
	}
	some := maps.Clone(all)
	maps.DeleteFunc(some, func(name string, _ Body) bool { return s.withheld[name] })
	return some
}

// wake tells everybody who waits. s.mu must be held.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Settle waits until Envoy has asked for all of need, has been sent all that it asked
// for of some types, and has answered. The error is a RefusedError when it did not take
// what it was sent.
func (s *Server) Settle(ctx context.Context, need State, types ...string) error {
	for {
		done, changed, err := s.settled(need, types)
		if done {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for Envoy to take the configuration: %w", context.Cause(ctx))
		}
	}
}

func (s *Server) settled(need State, types []string) (bool, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == nil {
		return false, s.changed, nil
	}
	all, errs := true, []error(nil)
	for _, t := range types {
		ok, refusal := s.stream.of(t).Settled(s.offered(t, s.state[t]), s.offered(t, need[t]))
		all = all && ok
		if ok && refusal != "" {
			errs = append(errs, RefusedError{t[strings.LastIndex(t, ".")+1:], refusal})
		}
	}
	// For what a refused resource refers to Envoy never asks.
	return all || len(errs) > 0, s.changed, errors.Join(errs...)
}

// Connected reports whether an Envoy has a stream open.
func (s *Server) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream != nil
}

// Asked returns the names that Envoy asks for of a type, other than all, and what is
// closed when that, or anything else here, has changed. whole is false while Envoy may
// not have asked for all that it needs: there is none, or it begins and has not taken its
// listeners yet, the last thing that makes it ask.
func (s *Server) Asked(t string) (names []string, whole bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == nil {
		return nil, false, s.changed
	}
	return s.stream.of(t).Names(), s.stream.of(Listeners).Answered(), s.changed
}

// stream is what one stream was sent. It is under Server.mu.
type stream struct {
	subs     map[string]*Subscription
	verdicts map[string]*Verdicts
	// cold is since when Envoy lacks clusters, or endpoints of some.
	cold time.Time
}

// coldTime bounds how long what refers to clusters waits for theirs.
const coldTime = time.Second

// warming is how long to wait yet before what refers to clusters is sent: until Envoy has
// the endpoints of all, since it answers 503 where a route leads to a cluster that has
// none yet. Who sends no endpoints for a name does not keep routes back for ever.
func (st *stream) warming(now time.Time) time.Duration {
	if st.of(Clusters).waiting == "" && st.of(Endpoints).Whole() {
		st.cold = time.Time{}
		return 0
	}
	if st.cold.IsZero() {
		st.cold = now
	}
	return max(0, coldTime-now.Sub(st.cold))
}

func (st *stream) of(t string) *Subscription {
	if st.subs[t] == nil {
		v := st.verdicts[t]
		if v == nil {
			v = NewVerdicts() // a type that nobody serves
		}
		st.subs[t] = NewSubscription(t, "", v)
	}
	return st.subs[t]
}

// warm makes the endpoints of clusters be sent again: Envoy makes a changed cluster anew,
// waits for its endpoints, and does not ask for them, since it has asked for the name.
func (st *stream) warm(sent []*discovery.Resource) error {
	for _, r := range sent {
		c := new(cluster.Cluster)
		if err := r.Resource.UnmarshalTo(c); err != nil {
			return fmt.Errorf("cluster %s: %w", r.Name, err)
		}
		name := c.GetEdsClusterConfig().GetServiceName()
		if name == "" {
			name = c.Name
		}
		if c.GetType() == cluster.Cluster_EDS {
			st.of(Endpoints).Again(name)
		}
	}
	return nil
}

// DeltaAggregatedResources implements the service.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &stream{subs: map[string]*Subscription{}, verdicts: s.verdicts}
	s.mu.Lock()
	s.stream = st
	s.wake()
	s.mu.Unlock()
	defer s.leave(st)
	requests := Receive(g)
	for {
		answers, wait, changed, err := s.next(st, time.Now())
		if err != nil {
			return err
		}
		for _, a := range answers {
			if err := g.Send(a); err != nil {
				return err
			}
		}
		var warm <-chan time.Time
		if wait > 0 {
			warm = time.After(wait)
		}
		select {
		case <-changed:
		case <-warm:
		case q, open := <-requests:
			if !open {
				return status.Error(codes.Canceled, "the stream has ended")
			}
			s.take(st, q)
		}
	}
}

func (s *Server) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == st {
		s.stream = nil
		s.wake()
	}
}

func (s *Server) take(st *stream, q *discovery.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.of(q.TypeUrl).Ask(q)
	s.wake()
}

// next is what the stream is to send now; where wait is not 0, there may be more after it.
func (s *Server) next(st *stream, now time.Time) (
	answers []*discovery.DeltaDiscoveryResponse, wait time.Duration, changed <-chan struct{}, err error,
) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != st {
		return nil, 0, nil, status.Error(codes.Aborted, "another stream has taken its place")
	}
	for _, t := range order {
		if t == Listeners {
			wait = st.warming(now)
		}
		if (t == Listeners || t == Routes) && wait > 0 {
			continue
		}
		a := st.of(t).Next(s.offered(t, s.state[t]))
		if a == nil {
			continue
		}
		answers = append(answers, a)
		if t == Clusters {
			if err := st.warm(a.Resources); err != nil {
				return nil, 0, nil, status.Error(codes.Internal, err.Error())
			}
		}
	}
	return answers, wait, s.changed, nil
}

// Receive reads a stream of requests; the channel is closed at its end. It reads
// until the stream's context ends.
func Receive(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) <-chan *discovery.DeltaDiscoveryRequest {
	requests := make(chan *discovery.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			q, err := g.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- q:
			case <-g.Context().Done():
				return
			}
		}
	}()
	return requests
}

package adstest

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options choose how a Server is reached. The zero value is plaintext at a free port
// of 127.0.0.1.
type Options struct {
	// Address is where it listens.
	Address string
	// TLS, when set, is spoken.
	TLS *tls.Config
	// Check refuses streams by their metadata; nil takes all.
	Check func(metadata.MD) error
}

// Server is one scripted control plane. Its methods may be called concurrently.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	options Options
	address string

	mu        sync.Mutex
	news      chan struct{} // closed and replaced when something has come
	grpc      *grpc.Server
	ended     chan struct{} // closed when grpc has
	check     func(metadata.MD) error
	resources map[string]map[string]*discovery.Resource // by type and name
	streams   map[*stream]struct{}
	opened    int
	nonces    int
	requests  []Request
}

// Request is one request of a client.
type Request struct {
	// Stream counts the streams, from 1.
	Stream int
	*discovery.DeltaDiscoveryRequest
}

// Start starts a server. The caller closes it.
func Start(o Options) (*Server, error) {
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	s := &Server{
		options: o, address: o.Address, check: o.Check, news: make(chan struct{}),
		resources: map[string]map[string]*discovery.Resource{}, streams: map[*stream]struct{}{},
	}
	return s, s.Resume()
}

// Address is host:port, the same after each Resume.
func (s *Server) Address() string { return s.address }

// Stop ends the server with all its streams; its resources stay.
func (s *Server) Stop() {
	s.mu.Lock()
	g, ended := s.grpc, s.ended
	s.grpc = nil
	s.mu.Unlock()
	if g != nil {
		g.Stop()
		<-ended
	}
}

// Close is Stop.
func (s *Server) Close() error {
	s.Stop()
	return nil
}

// Resume starts it again at the same address.
func (s *Server) Resume() error {
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("start ADS server: %w", err)
	}
	var options []grpc.ServerOption
	if s.options.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.options.TLS)))
	}
	g, ended := grpc.NewServer(options...), make(chan struct{})
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	s.mu.Lock()
	s.address, s.grpc, s.ended = l.Addr().String(), g, ended
	s.mu.Unlock()
	go func() {
		defer close(ended)
		_ = g.Serve(l) // ends with Stop alone
	}()
	return nil
}

// Resource makes a resource, whose version follows from its content.
func Resource(name string, m proto.Message) *discovery.Resource {
	body, err := anypb.New(m)
	if err != nil {
		panic(err) // a message that cannot be written is none
	}
	return Raw(name, body)
}

// Raw makes a resource of any content.
func Raw(name string, body *anypb.Any) *discovery.Resource {
	h := fnv.New64a()
	h.Write(body.GetValue())
	return &discovery.Resource{Name: name, Version: strconv.FormatUint(h.Sum64(), 16), Resource: body}
}

// Change sets and removes resources of one type and sends them in one answer to all
// who have asked for the type. Without streams it is what the next one begins with.
func (s *Server) Change(typeURL string, set []*discovery.Resource, removed ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resources[typeURL] == nil {
		s.resources[typeURL] = map[string]*discovery.Resource{}
	}
	for _, name := range removed {
		delete(s.resources[typeURL], name)
	}
	for _, r := range set {
		s.resources[typeURL][r.Name] = r
	}
	s.send(&discovery.DeltaDiscoveryResponse{TypeUrl: typeURL, Resources: set, RemovedResources: removed})
}

// Send sends an answer as it is to all who have asked for its type; the server's own
// resources do not change.
func (s *Server) Send(answer *discovery.DeltaDiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(answer)
}

func (s *Server) send(answer *discovery.DeltaDiscoveryResponse) {
	for st := range s.streams {
		if st.asked[answer.TypeUrl] {
			st.queue(answer)
		}
	}
}

// Break ends all streams with an error, nil for an end without one.
func (s *Server) Break(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		st.end(err)
	}
}

// Check replaces what refuses new streams; nil takes all.
func (s *Server) Check(check func(metadata.MD) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check = check
}

// Requests returns all that came.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Await returns the first request, from number from on, that is as wanted, and the
// number of the one after it.
func (s *Server) Await(ctx context.Context, from int, is func(Request) bool) (Request, int, error) {
	for {
		s.mu.Lock()
		news := s.news
		for ; from < len(s.requests); from++ {
			if r := s.requests[from]; is(r) {
				s.mu.Unlock()
				return r, from + 1, nil
			}
		}
		s.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Request{}, from, ctx.Err()
		}
	}
}

// Streams returns how many streams were opened so far, and how many are open.
func (s *Server) Streams() (opened, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, len(s.streams)
}

func (s *Server) heard(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	close(s.news)
	s.news = make(chan struct{})
}

// whole is the first answer for a type: what the client does not have already, and
// what it has and is gone.
func (s *Server) whole(typeURL string, has map[string]string) *discovery.DeltaDiscoveryResponse {
	answer := &discovery.DeltaDiscoveryResponse{TypeUrl: typeURL}
	for _, name := range slices.Sorted(maps.Keys(s.resources[typeURL])) {
		if r := s.resources[typeURL][name]; has[name] != r.Version || r.Version == "" {
			answer.Resources = append(answer.Resources, r)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if s.resources[typeURL][name] == nil {
			answer.RemovedResources = append(answer.RemovedResources, name)
		}
	}
	return answer
}

package adstest

import (
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/metadata"
)

type ads = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer

// stream is one client. All but ads is under the server's lock.
type stream struct {
	ads     ads
	number  int
	asked   map[string]bool
	waiting []*discovery.DeltaDiscoveryResponse
	ended   bool
	err     error
	wake    chan struct{}
}

func (st *stream) queue(answer *discovery.DeltaDiscoveryResponse) {
	st.waiting = append(st.waiting, answer)
	st.rouse()
}

func (st *stream) end(err error) {
	st.ended, st.err = true, err
	st.rouse()
}

func (st *stream) rouse() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// DeltaAggregatedResources implements ADS.
func (s *Server) DeltaAggregatedResources(a ads) error {
	st := &stream{ads: a, asked: map[string]bool{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.opened++
	st.number = s.opened
	check := s.check
	s.mu.Unlock()
	if check != nil {
		md, _ := metadata.FromIncomingContext(a.Context())
		if err := check(md); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, st)
	}()
	go s.read(st)
	return s.write(st)
}

// read takes requests until the stream ends.
func (s *Server) read(st *stream) {
	for {
		r, err := st.ads.Recv()
		if err != nil {
			s.mu.Lock()
			st.end(nil)
			s.mu.Unlock()
			return
		}
		s.heard(Request{st.number, r})
		s.mu.Lock()
		if r.ResponseNonce == "" && !st.asked[r.TypeUrl] {
			st.asked[r.TypeUrl] = true
			st.queue(s.whole(r.TypeUrl, r.InitialResourceVersions))
		}
		s.mu.Unlock()
	}
}

// write sends answers until the stream ends.
func (s *Server) write(st *stream) error {
	for {
		s.mu.Lock()
		waiting, ended, err := st.waiting, st.ended, st.err
		st.waiting = nil
		s.mu.Unlock()
		for _, answer := range waiting {
			if err := st.ads.Send(s.numbered(answer)); err != nil {
				return err
			}
		}
		if ended {
			return err
		}
		<-st.wake
	}
}

// numbered is the answer with a nonce of its own.
func (s *Server) numbered(answer *discovery.DeltaDiscoveryResponse) *discovery.DeltaDiscoveryResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonces++
	return &discovery.DeltaDiscoveryResponse{
		TypeUrl: answer.TypeUrl, Resources: answer.Resources, RemovedResources: answer.RemovedResources,
		Nonce: strconv.Itoa(s.nonces),
	}
}

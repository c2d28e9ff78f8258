package l7_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/internal/istiod/ca"
)

// scripted is an istiod that sends what was recorded of a real one, and signs
// certificates.
type scripted struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	t      *testing.T
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	server *grpc.Server
	addr   string

	mu       sync.Mutex
	sets     map[string]map[string]*discovery.Resource
	changed  chan struct{}
	versions int
	// answers are what came back: by type, the error of the newest; "" is an ACK.
	answers map[string]string
	streams int
	// blind is the number of a stream on which no listener is named; 0 is none.
	blind int
	// claimed are the names that the newest stream said it has, of listeners.
	claimed map[string]string
	// subscribed are the endpoints asked for.
	subscribed map[string]bool
	// dropped are those that were once asked for and no longer.
	dropped []string
	// withhold, where set, keeps the CA from signing until it is closed.
	withhold chan struct{}
}

func startScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{
		t: t, addr: scriptedAt, sets: map[string]map[string]*discovery.Resource{}, changed: make(chan struct{}),
		answers: map[string]string{}, subscribed: map[string]bool{},
	}
	s.makeRoot()
	for typ, file := range map[string]string{
		ads.Clusters: "cluster", ads.Endpoints: "clusterloadassignment", ads.Listeners: "listener",
	} {
		data, err := os.ReadFile(filepath.Join("relay", "testdata", "waypoint-"+file+".delta.pb"))
		if err != nil {
			t.Fatal(err)
		}
		var m discovery.DeltaDiscoveryResponse
		if err := proto.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		s.sets[typ] = map[string]*discovery.Resource{}
		for _, r := range m.Resources {
			s.sets[typ][r.Name] = r
		}
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// start listens; a scripted istiod can be stopped and started again.
func (s *scripted) start() {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(s.server, s)
	s.server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "istio.v1.auth.IstioCertificateService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "CreateCertificate", Handler: s.sign}},
	}, s)
	go s.server.Serve(l)
}

func (s *scripted) stop() { s.server.Stop() }

func (s *scripted) makeRoot() {
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"cluster.local"}}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.root, err = x509.ParseCertificate(der); err != nil {
		s.t.Fatal(err)
	}
}

// sign is CreateCertificate for the waypoint's ServiceAccount.
func (s *scripted) sign(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	if s.withhold != nil {
		select {
		case <-s.withhold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	q := new(ca.IstioCertificateRequest)
	if err := dec(q); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(q.Csr))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	id := &url.URL{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/demo/sa/waypoint"}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{id},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.root, csr.PublicKey, s.key)
	if err != nil {
		return nil, err
	}
	text := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return &ca.IstioCertificateResponse{CertChain: []string{text(der), text(s.root.Raw)}}, nil
}

// set replaces a resource, or removes it when m is nil.
func (s *scripted) set(typ, name string, m proto.Message) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if m == nil {
		delete(s.sets[typ], name)
	} else {
		a, err := ads.Pack(m)
		if err != nil {
			s.t.Fatal(err)
		}
		if s.sets[typ] == nil {
			s.sets[typ] = map[string]*discovery.Resource{}
		}
		s.sets[typ][name] = &discovery.Resource{Name: name, Resource: a}
	}
	delete(s.answers, typ)
	close(s.changed)
	s.changed = make(chan struct{})
}

// answer waits for what the waypoint says of the newest resources of a type.
func (s *scripted) answer(typ string) string {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s.mu.Lock()
		text, there := s.answers[typ]
		s.mu.Unlock()
		if there {
			return text
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no answer to %s", typ)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// DeltaAggregatedResources implements the service as istiod does: clusters and
// listeners whole at every change, endpoints by name.
func (s *scripted) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests := ads.Receive(g)
	sent := map[string]map[string]*discovery.Resource{}
	nonces := map[string]string{}
	s.mu.Lock()
	s.streams++
	blind := s.streams == s.blind
	s.mu.Unlock()
	for {
		s.mu.Lock()
		changed := s.changed
		var out []*discovery.DeltaDiscoveryResponse
		for typ, before := range sent {
			if blind && typ == ads.Listeners {
				continue
			}
			if m := s.difference(typ, before); m != nil {
				nonces[typ] = m.Nonce
				out = append(out, m)
			}
		}
		s.mu.Unlock()
		for _, m := range out {
			if err := g.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case q, open := <-requests:
			if !open {
				return nil
			}
			s.take(q, sent, nonces)
		}
	}
}

func (s *scripted) take(q *discovery.DeltaDiscoveryRequest, sent map[string]map[string]*discovery.Resource, nonces map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.ResponseNonce != "" {
		if q.ResponseNonce == nonces[q.TypeUrl] {
			s.answers[q.TypeUrl] = q.GetErrorDetail().GetMessage()
		}
		return
	}
	if sent[q.TypeUrl] == nil {
		sent[q.TypeUrl] = map[string]*discovery.Resource{}
		for name := range q.InitialResourceVersions {
			sent[q.TypeUrl][name] = &discovery.Resource{Name: name}
		}
		if q.TypeUrl == ads.Listeners {
			s.claimed = q.InitialResourceVersions
		}
	}
	if q.TypeUrl == ads.Endpoints {
		for _, name := range q.ResourceNamesSubscribe {
			s.subscribed[name] = true
		}
		for _, name := range q.ResourceNamesUnsubscribe {
			delete(s.subscribed, name)
			s.dropped = append(s.dropped, name)
			delete(sent[q.TypeUrl], name)
		}
	}
}

// difference is what is new of a type since it was sent; s.mu must be held.
func (s *scripted) difference(typ string, before map[string]*discovery.Resource) *discovery.DeltaDiscoveryResponse {
	m := &discovery.DeltaDiscoveryResponse{TypeUrl: typ}
	fresh := false
	for name, r := range s.sets[typ] {
		if typ == ads.Endpoints && !s.subscribed[name] {
			continue
		}
		if before[name] != r {
			fresh = true
			before[name] = r
			if typ == ads.Endpoints {
				m.Resources = append(m.Resources, r)
			}
		}
	}
	for name := range before {
		if s.sets[typ][name] == nil {
			m.RemovedResources = append(m.RemovedResources, name)
			delete(before, name)
		}
	}
	if !fresh && len(m.RemovedResources) == 0 {
		return nil
	}
	if typ != ads.Endpoints {
		for _, r := range s.sets[typ] {
			m.Resources = append(m.Resources, r)
		}
	}
	s.versions++
	m.SystemVersionInfo = fmt.Sprintf("push-%d", s.versions)
	m.Nonce = m.SystemVersionInfo + "-nonce"
	return m
}

package ambient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// authority is a mesh's certificate authority: a root in memory, and the service
// that ztunnel asks for its pods' certificates.
type authority struct {
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	pem    []byte
	domain string
	signed atomic.Int64
}

const (
	rootLife = 48 * time.Hour
	// maxLife bounds what a request may ask for.
	maxLife = 24 * time.Hour
	// early covers a peer whose clock is behind.
	early = 2 * time.Minute
)

// newAuthority makes a root for TrustDomain.
func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make root key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{TrustDomain}},
		NotBefore: now.Add(-early), NotAfter: now.Add(rootLife), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make root certificate: %w", err)
	}
	return &authority{key: key, root: root, pem: encode("CERTIFICATE", der), domain: TrustDomain}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// sign returns a leaf for exactly the given names, PEM.
func (a *authority) sign(public any, uris []*url.URL, dns []string, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, URIs: uris, DNSNames: dns, NotBefore: now.Add(-early), NotAfter: now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

// answer signs what a request asks for: one SPIFFE identity of the trust domain,
// proved by the request's own signature.
func (a *authority) answer(request []byte) ([]byte, error) {
	r, err := parseSigningRequest(request)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	block, _ := pem.Decode([]byte(r.csr))
	if block == nil {
		return nil, status.Error(codes.InvalidArgument, "the request holds no PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "certificate request: %v", err)
	}
	if len(csr.URIs) != 1 || csr.URIs[0].Scheme != "spiffe" || csr.URIs[0].Host != a.domain {
		return nil, status.Errorf(codes.PermissionDenied, "asked for %v: one identity of spiffe://%s is signed", csr.URIs, a.domain)
	}
	life := maxLife
	if r.seconds > 0 && time.Duration(r.seconds)*time.Second < maxLife {
		life = time.Duration(r.seconds) * time.Second
	}
	leaf, err := a.sign(csr.PublicKey, csr.URIs, nil, life)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	a.signed.Add(1)
	return appendChain(nil, leaf, a.pem), nil
}

// Credentials are what a waypoint shows and checks with, PEM.
type Credentials struct {
	Chain, Key, Roots []byte
}

// issue signs an identity with a key of its own.
func (a *authority) issue(identity string) (c Credentials, err error) {
	name, err := url.Parse(identity)
	if err != nil {
		return c, fmt.Errorf("identity: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return c, fmt.Errorf("encode key: %w", err)
	}
	c.Roots, c.Key = a.pem, encode("PRIVATE KEY", der)
	c.Chain, err = a.sign(key.Public(), []*url.URL{name}, nil, maxLife)
	return c, err
}

// The service of citadel.proto (istio.v1.auth, Apache-2.0) as names; its two
// messages are in wire.go.
const (
	authorityService = "istio.v1.auth.IstioCertificateService"
	authorityMethod  = "CreateCertificate"
	// SignMethod is the path of the one call.
	SignMethod = "/" + authorityService + "/" + authorityMethod
)

// serve answers on a listener until the returned function is called, which
// closes the listener too.
func (a *authority) serve(l net.Listener) (stop func() error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	leaf, err := a.sign(key.Public(), nil, []string{"localhost"}, rootLife)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(leaf)
	own := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})),
		grpc.ForceServerCodec(RawCodec{}),
	)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: authorityService, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: authorityMethod, Handler: createCertificate}},
	}, a)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	return func() error {
		server.Stop()
		if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("certificate authority: %w", err)
		}
		return nil
	}, nil
}

func createCertificate(service any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var request Raw
	if err := decode(&request); err != nil {
		return nil, err
	}
	reply, err := service.(*authority).answer(request)
	if err != nil {
		return nil, err
	}
	return (*Raw)(&reply), nil
}

package standin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/duomesh/duomesh/internal/ambient"
)

// certificates asks the mesh's authority for the certificate of each identity,
// once.
type certificates struct {
	conn  *grpc.ClientConn
	roots *x509.CertPool

	mu    sync.Mutex
	known map[string]*tls.Certificate
}

// life is what is asked for, seconds; ztunnel asks for the same.
const life = 24 * 60 * 60

func openCertificates(cfg config) (*certificates, error) {
	root, err := os.ReadFile(cfg.root)
	if err != nil {
		return nil, fmt.Errorf("read root certificate: %w", err)
	}
	c := &certificates{roots: x509.NewCertPool(), known: map[string]*tls.Certificate{}}
	if !c.roots.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("root certificate %s: no certificate in it", cfg.root)
	}
	c.conn, err = grpc.NewClient("passthrough:///"+cfg.ca, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: c.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return c, nil
}

func (c *certificates) close() error { return c.conn.Close() }

// of returns the certificate of an identity.
func (c *certificates) of(ctx context.Context, identity string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert, ok := c.known[identity]; ok {
		return cert, nil
	}
	cert, err := c.ask(ctx, identity)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", identity, err)
	}
	c.known[identity] = cert
	return cert, nil
}

func (c *certificates) ask(ctx context.Context, identity string) (*tls.Certificate, error) {
	name, err := url.Parse(identity)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		return nil, err
	}
	request := ambient.EncodeSigningRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), life)
	var reply ambient.Raw
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.conn.Invoke(ctx, ambient.SignMethod, &request, &reply, grpc.ForceCodec(ambient.RawCodec{}), grpc.WaitForReady(true)); err != nil {
		return nil, err
	}
	chain, err := ambient.DecodeChain(reply)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{PrivateKey: key}
	for _, text := range chain[:len(chain)-1] { // the root is known
		block, _ := pem.Decode(text)
		if block == nil {
			return nil, errors.New("the authority answers with something that is no PEM")
		}
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	if err == nil && !slices.Equal(names(cert.Leaf), []string{identity}) {
		err = fmt.Errorf("the authority signed %v", names(cert.Leaf))
	}
	return cert, err
}

func names(c *x509.Certificate) []string {
	var all []string
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	return all
}

// peerIdentity checks a peer's chain and returns its one SPIFFE name.
func (c *certificates) peerIdentity(state tls.ConnectionState) (string, error) {
	if len(state.PeerCertificates) == 0 {
		return "", errors.New("the peer shows no certificate")
	}
	leaf, between := state.PeerCertificates[0], x509.NewCertPool()
	for _, other := range state.PeerCertificates[1:] {
		between.AddCert(other)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return "", err
	}
	if n := names(leaf); len(n) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Host == ambient.TrustDomain {
		return n[0], nil
	}
	return "", fmt.Errorf("the peer is %v: one identity of %s is wanted", names(leaf), ambient.TrustDomain)
}

// tls is the configuration of one end: TLS 1.3, h2, no resumption, no server
// name; the peer must be the wanted one, or anyone of the trust domain.
func (c *certificates) tls(own *tls.Certificate, wanted string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{*own}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		// A name of a host says nothing here: VerifyConnection checks chain and
		// identity on both ends.
		InsecureSkipVerify: true, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			peer, err := c.peerIdentity(state)
			if err == nil && wanted != "" && peer != wanted {
				err = fmt.Errorf("the peer is %s, %s is wanted", peer, wanted)
			}
			return err
		},
	}
}

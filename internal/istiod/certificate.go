package istiod

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/duomesh/duomesh/internal/istiod/ca"
)

// createCertificate is the one call of Istio's CA.
const createCertificate = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

// Certificate is a workload's identity as istiod's CA has signed it. All is PEM.
type Certificate struct {
	// Key is the private key, Chain the certificate with those between it and the root.
	Key, Chain []byte
	// Roots are the certificates that others of the mesh are signed by.
	Roots []byte
	// SPIFFE is the identity in it, for example "spiffe://cluster.local/ns/demo/sa/waypoint".
	SPIFFE              string
	NotBefore, NotAfter time.Time
}

// Renewal is when the certificate should be replaced: before half of its life is over.
func (c Certificate) Renewal() time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) * 45 / 100)
}

// NewCertificate makes a key and lets istiod's CA sign it for the ServiceAccount whose
// token, of the file named, conn shows. A life of 0 asks for 24 hours; the CA may give less.
func NewCertificate(ctx context.Context, conn grpc.ClientConnInterface, token string, life time.Duration) (Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	// The CA writes the identity of the token into it, whatever is asked for.
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return Certificate{}, fmt.Errorf("make a certificate request: %w", err)
	}
	if life == 0 {
		life = 24 * time.Hour
	}
	ask := &ca.IstioCertificateRequest{
		Csr:              string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
		ValidityDuration: int64(life.Seconds()), Metadata: &structpb.Struct{},
	}
	answer := new(ca.IstioCertificateResponse)
	if err := conn.Invoke(ctx, createCertificate, ask, answer); err != nil {
		return Certificate{}, fmt.Errorf("certificate from istiod's CA: %w", explain(err, token))
	}
	return certificate(key, answer.CertChain)
}

// certificate puts together what the CA has answered: the certificate first, the root
// last.
func certificate(key *ecdsa.PrivateKey, chain []string) (Certificate, error) {
	if len(chain) < 2 {
		return Certificate{}, fmt.Errorf("certificate from istiod's CA: %d certificates, want at least it and a root", len(chain))
	}
	block, _ := pem.Decode([]byte(chain[0]))
	if block == nil {
		return Certificate{}, errors.New("certificate from istiod's CA: it is not PEM")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Certificate{}, fmt.Errorf("certificate from istiod's CA: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Certificate{}, fmt.Errorf("write the key: %w", err)
	}
	c := Certificate{
		Key:   pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		Chain: []byte(strings.Join(chain[:len(chain)-1], "")), Roots: []byte(chain[len(chain)-1]),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
	if len(leaf.URIs) > 0 {
		c.SPIFFE = leaf.URIs[0].String()
	}
	return c, nil
}

package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// keyLife is how long certificates are good for: longer than any run.
const keyLife = 7 * 24 * time.Hour

// pair is a certificate and its key in PEM.
type pair struct{ cert, key []byte }

// authority signs the API server's certificate and those of its clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of the authority: %w", err)
	}
	t := template(pkix.Name{CommonName: "duomesh-control-plane"})
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate: %w", err)
	}
	return &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

func template(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // never fails (crypto/rand)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(keyLife),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// server signs the certificate of the API server, for its names and addresses.
func (a *authority) server(names []string, addrs []netip.Addr) (pair, error) {
	t := template(pkix.Name{CommonName: "kube-apiserver"})
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.DNSNames = names
	for _, ip := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	return a.sign(t)
}

// client signs the certificate of a user in groups.
func (a *authority) client(user string, groups ...string) (pair, error) {
	t := template(pkix.Name{CommonName: user, Organization: groups})
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(t)
}

func (a *authority) sign(t *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make key of %s: %w", t.Subject, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, fmt.Errorf("sign certificate of %s: %w", t.Subject, err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, fmt.Errorf("encode key of %s: %w", t.Subject, err)
	}
	return pair{cert: encode("CERTIFICATE", der), key: encode("PRIVATE KEY", raw)}, nil
}

// tokenKey makes the key that signs ServiceAccount tokens.
func tokenKey() (private, public []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of tokens: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode key of tokens: %w", err)
	}
	return encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), encode("PUBLIC KEY", pub), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Files of the keys, in Config.Dir.
const (
	authorityFile = "ca.crt"
	serverCert    = "apiserver.crt"
	serverKey     = "apiserver.key"
	// TokenKeyFile signs ServiceAccount tokens.
	TokenKeyFile = "sa.key"
	tokenPublic  = "sa.pub"
)

// writeKeys makes all keys, writes what the programs read, and returns the
// administrator's.
func (c Config) writeKeys() (*authority, pair, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, pair{}, err
	}
	names := []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	addrs := append([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}, c.Addresses...)
	for _, r := range c.Services {
		addrs = append(addrs, r.Masked().Addr().Next()) // of the service "kubernetes"
	}
	server, err := ca.server(names, addrs)
	if err != nil {
		return nil, pair{}, err
	}
	admin, err := ca.client("duomesh-admin", "system:masters")
	if err != nil {
		return nil, pair{}, err
	}
	private, public, err := tokenKey()
	if err != nil {
		return nil, pair{}, err
	}
	for name, data := range map[string][]byte{
		authorityFile: ca.pem, serverCert: server.cert, serverKey: server.key, TokenKeyFile: private, tokenPublic: public,
	} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), data, 0o600); err != nil {
			return nil, pair{}, fmt.Errorf("write keys: %w", err)
		}
	}
	return ca, admin, nil
}

package ambient

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
)

func request(t *testing.T, uris ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE REQUEST", der)
}

// TestChain: leaf first, root last, exactly the asked name, for both ends of TLS.
func TestChain(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	id := Identity(Namespace, "client")
	reply, err := ca.answer(EncodeSigningRequest(request(t, id), 3600))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := DecodeChain(reply)
	if err != nil || len(chain) != 2 || string(chain[1]) != string(ca.pem) {
		t.Fatalf("%d certificates, %v", len(chain), err)
	}
	block, _ := pem.Decode(chain[0])
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.root)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id || len(leaf.DNSNames) > 0 || ca.signed.Load() != 1 {
		t.Errorf("signed %v %v, %d times", leaf.URIs, leaf.DNSNames, ca.signed.Load())
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life.Hours() > 1.1 {
		t.Errorf("it holds %v, an hour was asked", life)
	}
}

func TestRequestsThatAreNotSigned(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	good := request(t, Identity(Namespace, "client"))
	forged := []byte(strings.Replace(string(good), "\n-----END", "AAAA\n-----END", 1))
	for name, csr := range map[string][]byte{
		"another trust domain": request(t, "spiffe://elsewhere/ns/default/sa/client"),
		"no identity":          request(t),
		"two identities":       request(t, Identity(Namespace, "a"), Identity(Namespace, "b")),
		"a web address":        request(t, "https://cluster.local/ns/default/sa/client"),
		"no PEM":               []byte("hello"),
		"a forged request":     forged,
	} {
		if _, err := ca.answer(EncodeSigningRequest(csr, 60)); err == nil {
			t.Errorf("%s was signed", name)
		}
	}
	if _, err := ca.answer([]byte{0xff}); err == nil || ca.signed.Load() != 0 {
		t.Errorf("rubbish: %v; %d signed", err, ca.signed.Load())
	}
	if _, err := DecodeChain(appendChain(nil, []byte("leaf"))); err == nil {
		t.Error("a chain without a root was taken")
	}
}

package istiod

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authority is a self-signed certificate of a server, and a PEM file of it.
func authority(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// checked refuses streams that do not show the token "good" for cluster "c1".
func checked(ads ads) error {
	md, _ := metadata.FromIncomingContext(ads.Context())
	if strings.Join(md.Get("authorization"), "") != "Bearer good" || strings.Join(md.Get("clusterid"), "") != "c1" {
		return status.Error(codes.Unauthenticated, "the token was not taken")
	}
	return answered(ads, answer("a", "1", "one"))
}

func TestTLSAndToken(t *testing.T) {
	cert, roots := authority(t, DefaultServerName)
	_, others := authority(t, DefaultServerName)
	stray, strayRoots := authority(t, "somebody.else")
	good := Server{Roots: roots, Token: file(t, "good\n"), Cluster: "c1"}
	for name, c := range map[string]struct {
		cert   tls.Certificate
		server func(Server) Server
		want   string // of the error; empty: an answer comes
	}{
		"right":          {cert, func(s Server) Server { return s }, ""},
		"wrong roots":    {cert, func(s Server) Server { s.Roots = others; return s }, "unknown authority"},
		"no roots":       {cert, func(s Server) Server { s.Roots = file(t, "nothing"); return s }, "no roots to know istiod by: "},
		"missing roots":  {cert, func(s Server) Server { s.Roots = "/nowhere"; return s }, "no roots to know istiod by: "},
		"another's name": {stray, func(s Server) Server { s.Roots = strayRoots; return s }, "valid for somebody.else"},
		"wrong token":    {cert, func(s Server) Server { s.Token = file(t, "bad"); return s }, "does not accept the token"},
		"wrong cluster":  {cert, func(s Server) Server { s.Cluster = "c2"; return s }, "does not accept the token"},
		"missing token":  {cert, func(s Server) Server { s.Token = "/nowhere"; return s }, "token for istiod"},
		"empty token":    {cert, func(s Server) Server { s.Token = file(t, " "); return s }, "is empty"},
		"plaintext":      {cert, func(s Server) Server { s.Plaintext = true; return s }, "cannot be reached: that port does not answer without TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			tlsOf := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{c.cert}}))
			s := c.server(good)
			s.Address = serve(t, []grpc.ServerOption{tlsOf}, checked)
			k := newTaker()
			subscribe(t, s, k)
			if c.want == "" {
				if r := receive(t, k.responses); len(r.Resources) != 1 {
					t.Errorf("%+v", r)
				}
				return
			}
			for { // a later attempt may be ended otherwise: one must say it
				if err := receive(t, k.ends); strings.Contains(err.Error(), c.want) {
					return
				} else if !strings.Contains(err.Error(), "istiod") {
					t.Fatalf("%v", err)
				}
			}
		})
	}
}

// A token and roots that are replaced are used from the next stream on.
func TestRotation(t *testing.T) {
	cert, roots := authority(t, DefaultServerName)
	_, others := authority(t, DefaultServerName)
	good, err := os.ReadFile(roots)
	must(t, err)
	jwt := file(t, "expired")
	tlsOf := grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}}))
	s := Server{Address: serve(t, []grpc.ServerOption{tlsOf}, checked, checked, checked, checked), Roots: others, Token: jwt, Cluster: "c1"}
	k := newTaker()
	subscribe(t, s, k)
	receive(t, k.ends)
	must(t, os.WriteFile(others, good, 0o600))
	for !strings.Contains(receive(t, k.ends).Error(), "does not accept the token") {
	}
	must(t, os.WriteFile(jwt, []byte("good"), 0o600))
	receive(t, k.responses)
}

func TestBadAddress(t *testing.T) {
	if _, err := (Server{Address: "istiod"}).Connect(); err == nil || !strings.Contains(err.Error(), `"istiod"`) {
		t.Errorf("got %v", err)
	}
}

func TestIdentity(t *testing.T) {
	i := Identity{Kind: "ztunnel", IP: "10.0.0.2", Pod: "agent-a", Namespace: "mesh", Node: "a", Metadata: map[string]any{"CLUSTER_ID": "c1"}}
	n, err := i.Proto()
	must(t, err)
	if n.Id != "ztunnel~10.0.0.2~agent-a.mesh~mesh.svc.cluster.local" {
		t.Errorf("id %s", n.Id)
	}
	if f := n.Metadata.Fields; f["NODE_NAME"].GetStringValue() != "a" || f["CLUSTER_ID"].GetStringValue() != "c1" || f["NAMESPACE"].GetStringValue() != "mesh" {
		t.Errorf("metadata %v", n.Metadata)
	}
	i.Metadata = map[string]any{"x": make(chan int)}
	if _, err := i.Proto(); err == nil {
		t.Error("metadata that cannot be sent is taken")
	}
}

package standin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/kernel"
)

// authority signs identities for one test.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{key: key}
	a.root = a.certificate(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key)
	return a
}

func (a authority) certificate(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.root
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// knowing returns certificates as a node has them after it asked.
func (a authority) knowing(t *testing.T, identities ...string) *certificates {
	t.Helper()
	c := &certificates{roots: x509.NewCertPool(), known: map[string]*tls.Certificate{}}
	c.roots.AddCert(a.root)
	for _, id := range identities {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		name, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		leaf := a.certificate(t, &x509.Certificate{URIs: []*url.URL{name}}, key)
		c.known[id] = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	}
	return c
}

var (
	clientID = ambient.Identity("default", "client")
	serverID = ambient.Identity("default", "server")
)

// carried is a server's side on loopback, with an application behind it.
type carried struct {
	tunnel, app netip.AddrPort
	connections atomic.Int64 // TLS connections that the tunnel's port took
}

// counting counts what a listener accepts.
type counting struct {
	net.Listener
	n *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

func carry(t *testing.T, certs *certificates, handle func(net.Conn)) *carried {
	t.Helper()
	kernel.Require(t, kernel.Root)
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	c := new(carried)
	app, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.Close() })
	go func() {
		for {
			conn, err := app.Accept()
			if err != nil {
				return
			}
			go handle(conn)
		}
	}()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.app, c.tunnel = app.Addr().(*net.TCPAddr).AddrPort(), l.Addr().(*net.TCPAddr).AddrPort()
	n := &node{certs: certs, counters: newCounters(), log: io.Discard}
	p := &pod{node: n, identity: serverID, address: c.app.Addr(), space: &space{home: home, ns: home}}
	go p.tunnels(t.Context(), counting{l, &c.connections})
	return c
}

// client is the client's pool to the tunnel: what pools.to makes, but for where it
// connects.
func (c *carried) client(t *testing.T, certs *certificates, identity, wanted string) *http.Transport {
	t.Helper()
	config := certs.tls(certs.known[identity], wanted)
	tr := &http.Transport{Protocols: onlyHTTP2(), HTTP2: settings(), DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		d := tls.Dialer{Config: config}
		return d.DialContext(ctx, "tcp4", c.tunnel.String())
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func ask(t *testing.T, pool *http.Transport, authority string, body io.ReadCloser) (*http.Response, error) {
	t.Helper()
	r := (&http.Request{
		Method: http.MethodConnect, Host: authority, URL: &url.URL{Scheme: "https", Host: "10.0.0.1:15008"}, Header: http.Header{}, Body: body, ContentLength: -1,
	}).WithContext(t.Context())
	return pool.RoundTrip(r)
}

// echo answers when the client has closed its side, with what it said.
func echo(c net.Conn) {
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return
	}
	c.Write(b)
}

// TestClientMayCloseFirst: half of a stream can be ended, and all that was sent
// comes back through both directions.
func TestClientMayCloseFirst(t *testing.T) {
	certs := newAuthority(t).knowing(t, clientID, serverID)
	c := carry(t, certs, echo)
	sent := strings.Repeat("0123456789abcdef", 1<<16) // a megabyte
	reply, err := ask(t, c.client(t, certs, clientID, serverID), c.app.String(), io.NopCloser(strings.NewReader(sent)))
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if got, err := io.ReadAll(reply.Body); err != nil || string(got) != sent {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

// TestOnlyThisPodIsCarried: another pod, a name, nobody there.
func TestOnlyThisPodIsCarried(t *testing.T) {
	certs := newAuthority(t).knowing(t, clientID, serverID)
	c := carry(t, certs, echo)
	pool := c.client(t, certs, clientID, serverID)
	closed := netip.AddrPortFrom(c.app.Addr(), 1)
	for authority, want := range map[string]int{
		"10.9.9.9:80": http.StatusBadRequest, "name:80": http.StatusBadRequest, closed.String(): http.StatusServiceUnavailable,
	} {
		reply, err := ask(t, pool, authority, http.NoBody)
		if err != nil {
			t.Errorf("%s: %v", authority, err)
			continue
		}
		reply.Body.Close()
		if reply.StatusCode != want {
			t.Errorf("%s: %s, want %d", authority, reply.Status, want)
		}
	}
}

// TestIdentitiesAreChecked on both ends.
func TestIdentitiesAreChecked(t *testing.T) {
	mesh := newAuthority(t)
	certs := mesh.knowing(t, clientID, serverID, "spiffe://elsewhere/ns/default/sa/client")
	c := carry(t, certs, echo)
	stranger := newAuthority(t).knowing(t, clientID)
	stranger.roots = certs.roots // it trusts the mesh; the mesh does not trust it
	for name, pool := range map[string]*http.Transport{
		"a server that is another":         c.client(t, certs, clientID, clientID),
		"a client of another authority":    c.client(t, stranger, clientID, serverID),
		"a client of another trust domain": c.client(t, certs, "spiffe://elsewhere/ns/default/sa/client", serverID),
	} {
		if reply, err := ask(t, pool, c.app.String(), http.NoBody); err == nil {
			reply.Body.Close()
			t.Errorf("%s was accepted: %s", name, reply.Status)
		}
	}
}

// TestPool: streams share a connection, up to 100 of them.
func TestPool(t *testing.T) {
	certs := newAuthority(t).knowing(t, clientID, serverID)
	c := carry(t, certs, func(conn net.Conn) { io.Copy(io.Discard, conn); conn.Close() })
	pool := c.client(t, certs, clientID, serverID)
	var open sync.WaitGroup
	var held []*http.Response
	hold := func(n int) {
		for range n {
			r, w := io.Pipe()
			t.Cleanup(func() { w.Close() })
			reply, err := ask(t, pool, c.app.String(), r)
			if err != nil || reply.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", reply, err)
			}
			held = append(held, reply)
		}
	}
	hold(serverStreams)
	if n := c.connections.Load(); n != 1 {
		t.Errorf("%d connections for %d streams", n, serverStreams)
	}
	hold(1)
	if n := c.connections.Load(); n != 2 {
		t.Errorf("%d connections for %d streams", n, serverStreams+1)
	}
	for _, reply := range held {
		open.Go(func() { reply.Body.Close() })
	}
	open.Wait()
}

const withWaypoint = `
workloads: [{uid: u, name: p, namespace: b, workloadIps: [10.2.0.1], services: {b/c: {80: 8080}}}]
services: [{name: a, namespace: b, hostname: c, vips: [/10.96.0.1], ports: {80: 8080}, canonical: true, waypoint: {destination: /10.2.0.9, hboneMtlsPort: 15008}}]
`

func TestConfigErrorsAreNamed(t *testing.T) {
	for want, environ := range map[string][]string{
		"NODE_NAME is not set":   nil,
		"ZTUNNEL_WORKER_THREADS": {"NODE_NAME=a", "INPOD_UDS=x", "CA_ADDRESS=x", "CA_ROOT_CA=x", "LOCAL_XDS_PATH=x"},
		"read workloads":         {"NODE_NAME=a", "INPOD_UDS=x", "CA_ADDRESS=x", "CA_ROOT_CA=x", "LOCAL_XDS_PATH=/nowhere", "ZTUNNEL_WORKER_THREADS=2"},
	} {
		if _, err := parseConfig(environ); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	var c config
	if err := c.load([]byte("workloads: []\nservices: []\nunknown: 1\n")); err == nil {
		t.Error("an unknown key was taken, which a ztunnel refuses")
	}
	if err := c.load([]byte(withWaypoint)); err != nil || c.waypoints[netip.MustParseAddrPort("10.96.0.1:80")] != netip.MustParseAddrPort("10.2.0.9:15008") {
		t.Errorf("waypoints %v, %v", c.waypoints, err)
	}
	if err := c.load([]byte(strings.Replace(withWaypoint, "/10.2.0.9", "/somewhere", 1))); err == nil || !strings.Contains(err.Error(), "waypoint of service") {
		t.Errorf("a waypoint that is nowhere: %v", err)
	}
	if err := c.load([]byte("workloads: []\nservices: [{name: a, namespace: b, hostname: c, vips: [], ports: {}, canonical: true}]\n")); err == nil {
		t.Error("a service without a workload was taken")
	}
}

// TestEnds: how applications end connections is no error.
func TestEnds(t *testing.T) {
	for err, want := range map[error]bool{
		nil: false, errors.New("stream error: stream ID 5; CANCEL"): false, io.ErrUnexpectedEOF: true,
	} {
		if got := ended(err) != nil; got != want {
			t.Errorf("%v: an error: %v", err, got)
		}
	}
}

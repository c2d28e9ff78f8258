package istiod

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// DefaultServerName is what istiod's certificate says, wherever it is reached.
const DefaultServerName = "istiod.istio-system.svc"

// Server is where an istiod is and how it is known to be the right one.
type Server struct {
	// Address is host:port; 15012 is istiod's port with TLS, 15010 the one
	// without.
	Address string
	// Plaintext speaks without TLS and sends no token: for tests on one machine.
	Plaintext bool
	// Name is what the certificate must say; empty means DefaultServerName.
	Name string
	// Roots is a PEM file of the certificates that may have signed it. It is read
	// at each connect, so that it may be replaced.
	Roots string
	// Token is a file with the ServiceAccount token (JWT) that istiod is shown.
	// It is read for each stream: kubelet replaces it before it expires.
	Token string
	// Cluster is the CLUSTER_ID by which istiod finds who reviews the token.
	Cluster string
	// MaxMessage bounds one answer, in bytes; 0 means 512 MiB. The first has the
	// whole mesh.
	MaxMessage int
	// KeepAlive is how often a silent istiod is pinged; 0 means every 30 s, and less
	// than 10 s means 10 s. No answer within a third of it ends the stream.
	KeepAlive time.Duration
	// Dial replaces the dialler, for another network namespace; nil means the
	// own.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// keepAlive finds a server that went away without a word.
func (s Server) keepAlive() keepalive.ClientParameters {
	every := 30 * time.Second
	if s.KeepAlive > 0 {
		every = s.KeepAlive
	}
	return keepalive.ClientParameters{Time: every, Timeout: every / 3}
}

// maxMessage bounds one answer where nobody says otherwise.
const maxMessage = 512 << 20

// Connect makes a client connection. Nothing is dialled before it is used, and the
// caller closes it.
func (s Server) Connect() (*grpc.ClientConn, error) {
	if _, _, err := net.SplitHostPort(s.Address); err != nil {
		return nil, fmt.Errorf("address of istiod %q: %w", s.Address, err)
	}
	options := []grpc.DialOption{
		grpc.WithKeepaliveParams(s.keepAlive()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cmp.Or(s.MaxMessage, maxMessage))),
		// Streams have their own back-off; the transport must not wait longer.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: .2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if s.Dial != nil {
		options = append(options, grpc.WithContextDialer(s.Dial))
	}
	if s.Plaintext {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	} else {
		options = append(options,
			grpc.WithAuthority(s.name()),
			grpc.WithTransportCredentials(&transport{name: s.name(), roots: s.Roots}),
			grpc.WithPerRPCCredentials(token{file: s.Token, cluster: s.Cluster}))
	}
	target := "passthrough:///" + s.Address
	if s.Dial == nil {
		target = "dns:///" + s.Address
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to istiod at %s: %w", s.Address, err)
	}
	return conn, nil
}

func (s Server) name() string {
	if s.Name == "" {
		return DefaultServerName
	}
	return s.Name
}

// transport is TLS whose roots are read anew at each handshake.
type transport struct{ name, roots string }

// ClientHandshake implements credentials.TransportCredentials.
func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pool, err := readRoots(t.roots)
	if err != nil {
		return nil, nil, err
	}
	config := &tls.Config{ServerName: t.name, RootCAs: pool, MinVersion: tls.VersionTLS12}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, raw)
}

// noRoots begins the errors of readRoots, by which explain knows them.
const noRoots = "root certificates of istiod"

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf(noRoots+": %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf(noRoots+": %s holds none in PEM", file)
	}
	return pool, nil
}

// ServerHandshake implements credentials.TransportCredentials: this is a client.
func (*transport) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a client's")
}

// Info implements credentials.TransportCredentials.
func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials { c := *t; return &c }

// OverrideServerName implements credentials.TransportCredentials.
func (t *transport) OverrideServerName(name string) error { t.name = name; return nil }

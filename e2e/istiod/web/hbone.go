package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/duomesh/duomesh/internal/istiod"
)

// dial makes a connection through a CONNECT stream of HTTP/2 with mutual TLS, as a node's
// proxy of Istio's ambient mesh does. Each has a TLS connection of its own.
func (t *Tunnel) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	own, err := t.certificate(ctx)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Protocols: onlyHTTP2(),
		TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{*own}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			InsecureSkipVerify: true, // who the waypoint is, is not what is looked at
		},
	}
	in, out := io.Pipe()
	q := (&http.Request{
		Method: http.MethodConnect, Host: t.Authority, URL: &url.URL{Scheme: "https", Host: t.Waypoint},
		Header: http.Header{}, Body: in, ContentLength: -1,
	}).WithContext(context.WithoutCancel(ctx))
	a, err := transport.RoundTrip(q)
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	if a.StatusCode != http.StatusOK {
		a.Body.Close()
		return nil, fmt.Errorf("tunnel: %s", a.Status)
	}
	return &tunnelled{Reader: a.Body, Writer: out, close: func() error {
		defer transport.CloseIdleConnections()
		return errors.Join(out.Close(), a.Body.Close())
	}}, nil
}

// certificate lets istiod's CA sign a key for the account of the token.
func (t *Tunnel) certificate(ctx context.Context) (*tls.Certificate, error) {
	conn, err := istiod.Server{Address: t.Istiod, Roots: t.Roots, Token: t.Token, Cluster: t.Cluster}.Connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c, err := istiod.NewCertificate(ctx, conn, t.Token, 0)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	return &pair, err
}

func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	return p
}

// tunnelled is a connection in a stream.
type tunnelled struct {
	io.Reader
	io.Writer
	close func() error
}

// Close implements net.Conn.
func (t *tunnelled) Close() error { return t.close() }

// LocalAddr implements net.Conn.
func (*tunnelled) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr implements net.Conn.
func (*tunnelled) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// SetDeadline implements net.Conn: the client's own time bounds a request.
func (*tunnelled) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (*tunnelled) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (*tunnelled) SetWriteDeadline(time.Time) error { return nil }

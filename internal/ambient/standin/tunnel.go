package standin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/ambient"
)

// Settings of HTTP/2, as ztunnel has them.
const (
	streamWindow     = 4 << 20
	connectionWindow = 16 << 20
	frameSize        = 1 << 20
	// serverStreams is one pooled connection's most; a client opens another
	// connection beyond it.
	serverStreams = 100
	idlePing      = 10 * time.Second
	pingPatience  = 20 * time.Second
)

// pools are a pod's connections to other pods, by the identity that must be there.
type pools struct {
	pod *pod
	mu  sync.Mutex
	all map[string]*http2.Transport
}

func (p *pools) to(ctx context.Context, peer string) (*http2.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.all[peer]; ok {
		return t, nil
	}
	own, err := p.pod.node.certs.of(ctx, p.pod.identity)
	if err != nil {
		return nil, err
	}
	config := p.pod.node.certs.tls(own, peer)
	t := &http2.Transport{
		TLSClientConfig: config, DisableCompression: true, MaxReadFrameSize: frameSize,
		ReadIdleTimeout: idlePing, PingTimeout: pingPatience,
		DialTLSContext: func(ctx context.Context, _, address string, _ *tls.Config) (net.Conn, error) {
			return p.pod.handshake(ctx, address, config)
		},
	}
	if p.all == nil {
		p.all = map[string]*http2.Transport{}
	}
	p.all[peer] = t
	return t, nil
}

func (p *pod) handshake(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	c, err := p.space.dial(netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("handshake with %s: %w", to, err), c.Close())
	}
	return secure, nil
}

// throughTunnel carries an application's connection in a CONNECT stream.
func (p *pod) throughTunnel(ctx context.Context, c *net.TCPConn, to netip.AddrPort, w ambient.Workload) error {
	pool, err := p.pools.to(ctx, identity(w))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := (&http.Request{
		Method: http.MethodConnect, Host: to.String(),
		// The host of the URL is where to connect, that of the request the authority.
		URL:           &url.URL{Scheme: "https", Host: netip.AddrPortFrom(to.Addr(), ambient.HBONEPort).String()},
		Header:        http.Header{"Forwarded": {fmt.Sprintf("for=%q", c.RemoteAddr().String())}},
		Body:          io.NopCloser(reader{c}),
		ContentLength: -1,
	}).WithContext(ctx)
	reply, err := pool.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("connect to %s through the tunnel: %w", to, err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("connect to %s through the tunnel: the other side answers %s", to, reply.Status)
	}
	p.opened(ambient.ReporterSource, p.identity, true, w, ambient.SecurityMutual)
	_, err = io.CopyBuffer(writer{c}, reader{reply.Body}, make([]byte, bufferSize))
	return errors.Join(ended(err), ended(c.CloseWrite()))
}

// ended leaves out how applications end connections.
func ended(err error) error {
	var stream http2.StreamError
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ENOTCONN), errors.As(err, &stream):
		return nil
	}
	return err
}

// tunnel takes a peer's connection on the HBONE port.
func (p *pod) tunnel(ctx context.Context, c *net.TCPConn) error {
	own, err := p.node.certs.of(ctx, p.identity)
	if err != nil {
		return err
	}
	secure := tls.Server(c, p.node.certs.tls(own, ""))
	if err := secure.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	peer, err := p.node.certs.peerIdentity(secure.ConnectionState())
	if err != nil {
		return err
	}
	server := &http2.Server{
		MaxConcurrentStreams: serverStreams, MaxReadFrameSize: frameSize,
		MaxUploadBufferPerStream: streamWindow, MaxUploadBufferPerConnection: connectionWindow,
		ReadIdleTimeout: idlePing, PingTimeout: pingPatience,
	}
	from := peerOf(c)
	server.ServeConn(secure, &http2.ServeConnOpts{Context: ctx, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) { p.stream(w, r, from, peer) },
	)})
	return nil
}

// stream carries one CONNECT to the application, from the client's own address.
func (p *pod) stream(w http.ResponseWriter, r *http.Request, from netip.AddrPort, peer string) {
	to, err := netip.ParseAddrPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || to.Addr() != p.address {
		http.Error(w, "only CONNECT to this pod is carried", http.StatusBadRequest)
		return
	}
	up, err := p.space.dial(from, to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer up.Close()
	p.opened(ambient.ReporterDest, peer, true, p.workload, ambient.SecurityMutual)
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return // the client is gone
	}
	go func() {
		_, err := io.CopyBuffer(writer{up}, reader{r.Body}, make([]byte, bufferSize))
		if err == nil {
			up.CloseWrite() // fails only when the application is gone
			return
		}
		up.Close() // a stream that was reset ends the application's connection
	}()
	if _, err := io.CopyBuffer(flusher{w, out}, reader{up}, make([]byte, bufferSize)); ended(err) != nil && !errors.Is(err, net.ErrClosed) {
		p.node.say("error pod=%s stream to %s: %v", p.workload.Name, to, err)
	}
}

// flusher sends what is written at once.
type flusher struct {
	w   io.Writer
	out *http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.out.Flush()
	}
	return n, err
}

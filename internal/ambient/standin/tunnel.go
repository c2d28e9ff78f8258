package standin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

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
	all map[string]*http.Transport
}

func (p *pools) to(ctx context.Context, peer string) (*http.Transport, error) {
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
	t := &http.Transport{
		DisableCompression: true, Protocols: onlyHTTP2(), HTTP2: settings(),
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return p.pod.handshake(ctx, address, config)
		},
	}
	if p.all == nil {
		p.all = map[string]*http.Transport{}
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

// throughTunnel carries an application's connection in a CONNECT stream: to is asked
// for at the tunnel of a workload.
func (p *pod) throughTunnel(ctx context.Context, c *net.TCPConn, to, at netip.AddrPort, w ambient.Workload) error {
	pool, err := p.pools.to(ctx, identity(w))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := (&http.Request{
		Method: http.MethodConnect, Host: to.String(),
		// The host of the URL is where to connect, that of the request the authority.
		URL:           &url.URL{Scheme: "https", Host: at.String()},
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
	return errors.Join(ended(pump(c, reply.Body)), ended(c.CloseWrite()))
}

// ended leaves out how applications end connections. A stream that was reset is
// an error of a type that net/http keeps to itself.
func ended(err error) error {
	switch {
	case err == nil, errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, unix.ENOTCONN),
		strings.HasPrefix(err.Error(), "stream error: "):
		return nil
	}
	return err
}

// tunnels serves the pod's HBONE port until the listener is closed.
func (p *pod) tunnels(ctx context.Context, l net.Listener) error {
	own, err := p.node.certs.of(ctx, p.identity)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: http.HandlerFunc(p.stream), TLSConfig: p.node.certs.tls(own, ""), Protocols: onlyHTTP2(), HTTP2: settings(),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.ServeTLS(l, "", "")
}

func onlyHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP2(true)
	return p
}

func settings() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: serverStreams, MaxReadFrameSize: frameSize,
		MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connectionWindow,
		SendPingTimeout: idlePing, PingTimeout: pingPatience,
	}
}

// stream carries one CONNECT to the application, from the client's own address.
// TLS has checked who the peer is.
func (p *pod) stream(w http.ResponseWriter, r *http.Request) {
	to, err := netip.ParseAddrPort(r.Host)
	from, e := netip.ParseAddrPort(r.RemoteAddr)
	if err = errors.Join(err, e); r.Method != http.MethodConnect || err != nil || to.Addr() != p.address {
		http.Error(w, "only CONNECT to this pod is carried", http.StatusBadRequest)
		return
	}
	up, err := p.space.dial(from, to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer up.Close()
	p.opened(ambient.ReporterDest, names(r.TLS.PeerCertificates[0])[0], true, p.workload, ambient.SecurityMutual)
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return // the client is gone
	}
	go func() {
		if err := pump(up, r.Body); err == nil {
			up.CloseWrite() // fails only when the application is gone
			return
		}
		up.Close() // a stream that was reset ends the application's connection
	}()
	if err := pump(flusher{w, out}, up); ended(err) != nil && !errors.Is(err, net.ErrClosed) {
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

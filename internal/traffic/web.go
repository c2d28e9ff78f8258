package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// web answers plain HTTP requests on the raw ports, for people with curl: each
// answer is the server's name.
type web struct {
	http  *http.Server
	conns chan net.Conn
	end   chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

// idHeader carries the ID of the client's connection, whatever connection brings the
// request to the server.
const idHeader = "X-Duomesh-Connection"

// sessionKey finds the session of a request.
type sessionKey struct{}

// keep says whether connections are kept for another request. Those without one are
// closed when they are not.
func (w *web) keep(open bool) { w.http.SetKeepAlivesEnabled(open) }

func newWeb(name string) *web {
	w := &web{conns: make(chan net.Conn), end: make(chan struct{})}
	w.http = &http.Server{
		ReadHeaderTimeout: quiet,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, c.(*webConn).session)
		},
		Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if id, err := strconv.ParseUint(r.Header.Get(idHeader), 10, 64); err == nil {
				r.Context().Value(sessionKey{}).(*session).request(id)
			}
			fmt.Fprintln(out, name) // an error is the client's going away
		}),
	}
	w.wg.Go(func() { w.http.Serve(w) }) // ends with http.ErrServerClosed
	return w
}

// serve hands a connection to the HTTP server and returns when it is closed.
func (w *web) serve(ses *session, in *bufio.Reader) error {
	c := &webConn{Conn: ses.tcp, session: ses, in: in, closed: make(chan struct{})}
	select {
	case w.conns <- c:
		<-c.closed
		return nil
	case <-w.end:
		return net.ErrClosed
	}
}

func (w *web) close() error {
	err := w.http.Close()
	w.wg.Wait()
	return err
}

// Accept, Close and Addr make web the listener of its own HTTP server.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.end:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (w *web) Close() error {
	w.once.Do(func() { close(w.end) })
	return nil
}

// Addr is no address: connections come from other listeners.
func (w *web) Addr() net.Addr { return &net.TCPAddr{} }

// webConn reads what the session has looked at already, and tells when it is
// closed.
type webConn struct {
	net.Conn
	session *session
	in      *bufio.Reader
	once    sync.Once
	closed  chan struct{}
}

func (c *webConn) Read(b []byte) (int, error) { return c.in.Read(b) }

func (c *webConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	if errors.Is(err, net.ErrClosed) {
		return nil // the server was stopped
	}
	return err
}

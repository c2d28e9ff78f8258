package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"

	"fortio.org/fortio/fhttp"
)

// server is fortio's echo handler behind counters.
type server struct {
	connections, requests atomic.Int64
}

func runServer(p *pipes) error {
	var spec ServerSpec
	if err := p.spec(&spec); err != nil {
		return err
	}
	runtime.GOMAXPROCS(max(spec.MaxProcs, 1))
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", spec.Port))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := new(server)
	web := &http.Server{Handler: s, ConnState: s.connState}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	if err := p.say(message{Event: eventReady, Counts: s.counts(port)}); err != nil {
		return err
	}
	if err := s.obey(p, port); err != nil {
		return err
	}
	if err := web.Close(); err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// ServeHTTP counts, and lets fortio answer: ?size=N is the size of the reply.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	fhttp.EchoHandler(w, r)
}

func (s *server) connState(_ net.Conn, state http.ConnState) {
	if state == http.StateNew {
		s.connections.Add(1)
	}
}

func (s *server) counts(port uint16) *Counts {
	return &Counts{Port: port, Connections: s.connections.Load(), Requests: s.requests.Load()}
}

// obey answers commands until the caller closes the pipe.
func (s *server) obey(p *pipes, port uint16) error {
	for {
		ask, err := p.word()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ask != askCount:
			return fmt.Errorf("command %q: only %q is known", ask, askCount)
		}
		if err := p.say(message{Event: eventCounts, Counts: s.counts(port)}); err != nil {
			return err
		}
	}
}

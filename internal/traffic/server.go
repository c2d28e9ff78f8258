package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
)

// ServerConfig is what one server process does.
type ServerConfig struct {
	// Name is what the server tells its clients; at most 255 bytes.
	Name string `json:"name"`
	// Ports are the TCP ports to listen on, in host byte order.
	Ports []uint16 `json:"ports"`
	// Addresses are the local addresses to listen on; none means all, IPv4 and
	// IPv6.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// The commands of a server's standard input, and the events that answer them.
const (
	cmdStop = "stop"
	cmdSync = "sync"

	eventReady   = "ready"
	eventStopped = "stopped"
	eventSynced  = "synced"
)

type command struct {
	Do    string `json:"do"`
	Token uint64 `json:"token,omitempty"`
}

// line is one line of a server's standard output: an event or a connection.
type line struct {
	Event string `json:"event,omitempty"`
	Token uint64 `json:"token,omitempty"`
	Conn  *Conn  `json:"conn,omitempty"`
}

// server listens and answers until its standard input ends.
type server struct {
	name      string
	lines     *lineWriter
	listeners []net.Listener
	web       *web

	mu      sync.Mutex
	open    map[*session]struct{}
	stopped bool
	wg      sync.WaitGroup
}

// serve is the child process that answers: ServerConfig and then commands come
// as JSON lines on in; its end ends the server.
func serve(in io.Reader, out io.Writer) error {
	dec := json.NewDecoder(in)
	var cfg ServerConfig
	if err := dec.Decode(&cfg); err != nil {
		return fmt.Errorf("read server configuration: %w", err)
	}
	if len(cfg.Name) > 255 {
		return fmt.Errorf("server name of %d bytes: at most 255", len(cfg.Name))
	}
	s := &server{name: cfg.Name, lines: newLineWriter(out), open: map[*session]struct{}{}}
	s.web = newWeb(cfg.Name)
	if err := s.listen(cfg); err != nil {
		s.stop()
		return err
	}
	s.lines.put(line{Event: eventReady})
	err := s.obey(dec)
	s.stop()
	s.wg.Wait()
	return errors.Join(err, s.web.close(), s.lines.close())
}

// listener switches off keep-alive: three system calls fewer per connection.
var listener = net.ListenConfig{KeepAlive: -1}

func (s *server) listen(cfg ServerConfig) error {
	for _, port := range cfg.Ports {
		for _, addr := range listenAddrs(cfg.Addresses, port) {
			// ":port" is one dual-stack socket, or IPv4 where the kernel
			// has no IPv6.
			l, err := listener.Listen(context.Background(), "tcp", addr)
			if err != nil {
				return fmt.Errorf("server %s: %w", s.name, err)
			}
			s.listeners = append(s.listeners, l)
		}
	}
	for _, l := range s.listeners {
		s.wg.Go(func() { s.accept(l) })
	}
	return nil
}

func listenAddrs(addrs []netip.Addr, port uint16) []string {
	if len(addrs) == 0 {
		return []string{fmt.Sprintf(":%d", port)}
	}
	var all []string
	for _, a := range addrs {
		all = append(all, netip.AddrPortFrom(a, port).String())
	}
	return all
}

// accept runs until the listener is closed. Other errors (a connection that was
// reset while it waited, no descriptors left) concern one connection.
func (s *server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if ses := s.admit(c.(*net.TCPConn)); ses != nil {
			s.wg.Go(ses.run)
		}
	}
}

// obey carries out commands until in ends.
func (s *server) obey(dec *json.Decoder) error {
	for {
		var c command
		err := dec.Decode(&c)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read command: %w", err)
		}
		switch c.Do {
		case cmdStop:
			s.stop()
			s.lines.put(line{Event: eventStopped, Token: c.Token})
		case cmdSync:
			s.sync(c.Token)
		default:
			return fmt.Errorf("unknown command %q", c.Do)
		}
	}
}

// sync answers when every raw connection that is open now has ended.
func (s *server) sync(token uint64) {
	s.mu.Lock()
	var waits []chan struct{}
	for ses := range s.open {
		if ses.raw {
			waits = append(waits, ses.done)
		}
	}
	s.mu.Unlock()
	s.wg.Go(func() {
		for _, done := range waits {
			<-done
		}
		s.lines.put(line{Event: eventSynced, Token: token})
	})
}

// stop closes the listeners and resets what is open. It may be repeated.
func (s *server) stop() {
	for _, l := range s.listeners {
		l.Close() // repeated: net.ErrClosed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for ses := range s.open {
		ses.reset()
	}
}

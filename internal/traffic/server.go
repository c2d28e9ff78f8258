package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// ServerConfig is what one server process does.
type ServerConfig struct {
	// Name is what the server tells its clients; at most 255 bytes.
	Name string `json:"name"`
	// Ports are the TCP ports to listen on, in host byte order.
	Ports []uint16 `json:"ports"`
	// First are TCP ports on which the server speaks first: it says its name at once.
	First []uint16 `json:"first,omitempty"`
	// UDP are the UDP ports to answer on.
	UDP []uint16 `json:"udp,omitempty"`
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
	first     []uint16
	lines     *lineWriter
	listeners []net.Listener
	sockets   []*socket
	web       *web

	// accepting is above zero while listeners are read.
	accepting sync.WaitGroup

	mu      sync.Mutex
	open    map[*session]struct{}
	stopped bool
	wg      sync.WaitGroup
}

// How long a server that is told to stop goes on for those who are there: after
// drainTime without a new connection nobody waits to be accepted, after
// finishTime open connections are reset. sync waits as long for those who have gone.
const (
	drainTime  = 100 * time.Millisecond
	finishTime = 5 * time.Second
)

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
	s := &server{name: cfg.Name, first: cfg.First, lines: newLineWriter(out), open: map[*session]struct{}{}}
	s.web = newWeb(cfg.Name)
	if err := s.listen(cfg); err != nil {
		s.stop()
		return err
	}
	s.lines.put(line{Event: eventReady})
	err := s.obey(dec)
	s.stop()
	s.accepting.Wait()
	s.wg.Wait()
	return errors.Join(err, s.web.close(), s.lines.close())
}

// listener switches off keep-alive: three system calls fewer per connection.
var listener = net.ListenConfig{KeepAlive: -1}

func (s *server) listen(cfg ServerConfig) error {
	for _, port := range slices.Concat(cfg.Ports, cfg.First) {
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
	for _, port := range cfg.UDP {
		for _, addr := range listenAddrs(cfg.Addresses, port) {
			if err := s.listenUDP(addr); err != nil {
				return fmt.Errorf("server %s: %w", s.name, err)
			}
		}
	}
	for _, l := range s.listeners {
		s.accepting.Go(func() { s.accept(l) })
	}
	for _, u := range s.sockets {
		s.accepting.Go(u.run)
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

// accept runs until the listener is closed, or its deadline passes with nobody
// waiting; then it closes it. A connection that was reset while it waited is
// none; after another error (no descriptors left) it pauses, as net/http does.
func (s *server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			l.Close()
			return
		case err != nil:
			time.Sleep(acceptPause)
			continue
		}
		if ses := s.admit(c.(*net.TCPConn)); ses != nil {
			s.wg.Go(ses.run)
		}
	}
}

// acceptPause keeps a server without descriptors from spinning.
const acceptPause = 5 * time.Millisecond

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
			s.retire()
			s.lines.put(line{Event: eventStopped, Token: c.Token})
		case cmdSync:
			s.sync(c.Token)
		default:
			return fmt.Errorf("unknown command %q", c.Do)
		}
	}
}

// sync answers when every connection of our clients that is open now has ended. One of
// HTTP may be a proxy's, which keeps it: it is closed when no request is on it, and so is
// one on which nothing was ever said.
func (s *server) sync(token uint64) {
	s.web.keep(false)
	s.mu.Lock()
	var open []*session
	for ses := range s.open {
		if !ses.spoken {
			ses.reset()
		}
		if ses.ours || !ses.spoken {
			open = append(open, ses)
		}
	}
	s.mu.Unlock()
	for _, u := range s.sockets {
		u.flush()
	}
	s.wg.Go(func() {
		end(open)
		s.web.keep(true)
		s.lines.put(line{Event: eventSynced, Token: token})
	})
}

// end waits until sessions are over. One that is still there after finishTime has a
// client that has gone, whose last packets did not come: it is reset.
func end(open []*session) {
	late := time.After(finishTime)
	for _, ses := range open {
		select {
		case <-ses.done:
			continue
		case <-late:
		}
		for _, ses := range open {
			ses.reset()
		}
		break
	}
	for _, ses := range open {
		<-ses.done
	}
}

// retire stops as a rollout does: those who wait are accepted, those who are
// open are served to their end, and who is still there after finishTime is
// reset.
func (s *server) retire() {
	for _, l := range s.listeners {
		l.(*net.TCPListener).SetDeadline(time.Now().Add(drainTime)) // fails only when closed
	}
	for _, u := range s.sockets {
		u.conn.SetReadDeadline(time.Now().Add(drainTime))
	}
	s.accepting.Wait()
	late := time.After(finishTime)
	for _, done := range s.sessions() {
		select {
		case <-done:
		case <-late:
			s.stop()
			return
		}
	}
	s.stop()
}

func (s *server) sessions() []chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []chan struct{}
	for ses := range s.open {
		open = append(open, ses.done)
	}
	return open
}

// stop closes the listeners and resets what is open. It may be repeated.
func (s *server) stop() {
	for _, l := range s.listeners {
		l.Close() // repeated: net.ErrClosed
	}
	for _, u := range s.sockets {
		u.conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for ses := range s.open {
		ses.reset()
	}
}

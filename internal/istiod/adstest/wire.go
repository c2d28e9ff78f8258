package adstest

import (
	"fmt"
	"net"
	"sync"
)

// Wire is a TCP relay to a server, which can be made to swallow everything: nothing
// arrives any more and no connection ends, as when a machine has lost its power.
type Wire struct {
	to       string
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	thawed chan struct{} // closed: bytes go through
	conns  []net.Conn
}

// NewWire listens at a free port of 127.0.0.1 for an address. The caller closes it.
func NewWire(to string) (*Wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("lay a wire: %w", err)
	}
	w := &Wire{to: to, listener: l, thawed: make(chan struct{})}
	close(w.thawed)
	w.wg.Go(w.serve)
	return w, nil
}

// Address is where the server is reached through the wire.
func (w *Wire) Address() string { return w.listener.Addr().String() }

// Freeze swallows everything from now on, for connections that are open and new ones.
func (w *Wire) Freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flows() {
		w.thawed = make(chan struct{})
	}
}

// flows is called with the lock held.
func (w *Wire) flows() bool {
	select {
	case <-w.thawed:
		return true
	default:
		return false
	}
}

// Thaw lets bytes through again, also those that were held.
func (w *Wire) Thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.flows() {
		close(w.thawed)
	}
}

// Close ends all connections.
func (w *Wire) Close() error {
	err := w.listener.Close()
	w.mu.Lock()
	for _, c := range w.conns {
		c.Close()
	}
	if !w.flows() {
		close(w.thawed)
	}
	w.mu.Unlock()
	w.wg.Wait()
	return err
}

func (w *Wire) serve() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		w.wg.Go(func() { w.relay(near, far) })
		w.wg.Go(func() { w.relay(far, near) })
	}
}

func (w *Wire) relay(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		thawed := w.thawed
		w.mu.Unlock()
		<-thawed
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // io.EOF, or the other side is gone
		}
	}
}

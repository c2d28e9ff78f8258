package netsim

import (
	"errors"
	"io"
	"net"
	"sync"
)

// relay passes TCP connections to a port of this machine's loopback on to somewhere
// that this machine has no route to.
type relay struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

func openRelay(dial func() (net.Conn, error)) (*relay, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, dial: dial, conns: map[net.Conn]struct{}{}}
	r.wg.Go(r.serve)
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

// close ends all connections. A nil relay is closed.
func (r *relay) close() error {
	if r == nil {
		return nil
	}
	err := r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}

func (r *relay) serve() {
	for {
		in, err := r.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // it concerns one connection
		}
		r.wg.Go(func() { r.pass(in) })
	}
}

func (r *relay) pass(in net.Conn) {
	defer in.Close()
	if !r.holds(in) {
		return
	}
	defer r.forget(in)
	out, err := r.dial()
	if err != nil {
		return // the caller sees its connection end
	}
	defer out.Close()
	if !r.holds(out) {
		return
	}
	defer r.forget(out)
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			io.Copy(way[1], way[0]) // how a connection ends is the callers' matter
			if half, ok := way[1].(*net.TCPConn); ok {
				half.CloseWrite()
			}
		})
	}
	wg.Wait()
}

// holds notes a connection, so that close ends it; false when it is too late.
func (r *relay) holds(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.conns[c] = struct{}{}
	}
	return !r.closed
}

func (r *relay) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

package traffic

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Witness keeps what servers saw, and knows which connections clients have
// closed that no server has reported yet. The zero value is ready for use, by many at
// the same time.
type Witness struct {
	mu    sync.Mutex
	ids   uint64 // given to connections so far
	lines map[string][]Conn
	// unseen are closed by their client and not reported by a server: by ID,
	// with the server's name. early are reported by the server first.
	unseen map[uint64]string
	early  map[uint64]struct{}
	waits  map[*settling]struct{}
}

// settling waits until a set of connections has been reported.
type settling struct {
	left map[uint64]string
	done chan struct{}
}

// Run runs one client as RunClient does and takes its connections. It sets l.FirstID, so
// that every connection of a Witness has an ID of its own.
func (w *Witness) Run(ctx context.Context, launch Launch, l Load, seen func(Conn)) ([]Conn, error) {
	w.mu.Lock()
	l.FirstID = w.ids + 1
	w.ids += uint64(max(l.Connections, 0))
	w.mu.Unlock()
	return RunClient(ctx, launch, l, func(c Conn) {
		w.Client(c)
		if seen != nil {
			seen(c)
		}
	})
}

// Client takes a connection that its client has closed. Only one that a server
// has answered is waited for.
func (w *Witness) Client(c Conn) {
	if c.Server == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.early[c.ID]; ok {
		delete(w.early, c.ID)
		return
	}
	if w.unseen == nil {
		w.unseen = map[uint64]string{}
	}
	w.unseen[c.ID] = c.Server
}

// Server takes a connection that a pod's server has seen end.
func (w *Witness) Server(pod string, c Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lines == nil {
		w.lines, w.early = map[string][]Conn{}, map[uint64]struct{}{}
	}
	w.lines[pod] = append(w.lines[pod], c)
	if c.ID == 0 {
		return // not one of ours
	}
	if _, ok := w.unseen[c.ID]; !ok {
		w.early[c.ID] = struct{}{}
		return
	}
	delete(w.unseen, c.ID)
	for s := range w.waits {
		s.seen(c.ID)
	}
}

func (s *settling) seen(id uint64) {
	if _, ok := s.left[id]; !ok {
		return
	}
	delete(s.left, id)
	if len(s.left) == 0 {
		close(s.done)
	}
}

// Settle returns when every connection that clients have closed before the call
// has been reported by its server. Silent servers are not waited for; one that does not
// report in time is a SilentError.
func (w *Witness) Settle(ctx context.Context, silent map[string]error) error {
	w.mu.Lock()
	s := &settling{left: maps.Clone(w.unseen), done: make(chan struct{})}
	maps.DeleteFunc(s.left, func(_ uint64, server string) bool { return silent[server] != nil })
	if len(s.left) == 0 {
		w.mu.Unlock()
		return nil
	}
	if w.waits == nil {
		w.waits = map[*settling]struct{}{}
	}
	w.waits[s] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.waits, s)
		w.mu.Unlock()
	}()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		return s.silent(ctx.Err())
	}
}

// silent names the servers of what is left.
func (s *settling) silent(why error) *SilentError {
	left := map[string]int{}
	for _, server := range s.left {
		left[server]++
	}
	e := &SilentError{Pods: map[string]error{}}
	for server, n := range left {
		e.Pods[server] = fmt.Errorf("%d connections that clients have closed are not reported: %w", n, why)
	}
	return e
}

// Served returns a copy of all lines.
func (w *Witness) Served() map[string][]Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string][]Conn, len(w.lines))
	for pod, lines := range w.lines {
		all[pod] = slices.Clone(lines)
	}
	return all
}

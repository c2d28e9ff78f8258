package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// RemoteServer is a running server process. Its owner calls Close.
type RemoteServer struct {
	name string
	p    *process
	seen func(Conn)

	mu    sync.Mutex
	token uint64
	acks  map[uint64]chan struct{}
	// ended is closed when the process has ended; err says how.
	ended chan struct{}
	err   error
}

// StartServer starts a server process and returns when all its ports listen.
// Each connection is handed to seen when it has ended, one after the other.
// The process lives until Close, or until ctx is done.
func StartServer(ctx context.Context, launch Launch, cfg ServerConfig, seen func(Conn)) (*RemoteServer, error) {
	p, err := start(ctx, launch, serverRole)
	if err != nil {
		return nil, err
	}
	r := &RemoteServer{
		name: cfg.Name, p: p, seen: seen,
		acks: map[uint64]chan struct{}{}, ended: make(chan struct{}),
	}
	ready := r.expect(0)
	go r.read()
	if err := json.NewEncoder(p.in).Encode(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("traffic server %s: %w", cfg.Name, err), r.Close())
	}
	if err := r.await(ctx, ready); err != nil {
		return nil, errors.Join(fmt.Errorf("traffic server %s: wait until it listens: %w", cfg.Name, err), r.Close())
	}
	return r, nil
}

// Stop closes the listeners and resets what is open; the process stays.
func (r *RemoteServer) Stop(ctx context.Context) error { return r.ask(ctx, cmdStop) }

// Sync returns when every connection of RunClient clients that the server had
// open has ended and has been handed to seen.
func (r *RemoteServer) Sync(ctx context.Context) error { return r.ask(ctx, cmdSync) }

// Close ends the process and waits for it. It may be repeated.
func (r *RemoteServer) Close() error {
	r.p.in.Close() // repeated: os.ErrClosed
	<-r.ended
	return r.err
}

func (r *RemoteServer) ask(ctx context.Context, do string) error {
	r.mu.Lock()
	r.token++
	token := r.token
	r.mu.Unlock()
	ack := r.expect(token)
	defer r.forget(token)
	err := json.NewEncoder(r.p.in).Encode(command{Do: do, Token: token})
	if err == nil {
		err = r.await(ctx, ack)
	}
	if err != nil {
		return fmt.Errorf("traffic server %s: %s: %w", r.name, do, err)
	}
	return nil
}

func (r *RemoteServer) expect(token uint64) chan struct{} {
	ack := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acks[token] = ack
	return ack
}

func (r *RemoteServer) forget(token uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.acks, token)
}

func (r *RemoteServer) await(ctx context.Context, ack chan struct{}) error {
	select {
	case <-ack:
		return nil
	case <-r.ended:
		return errors.Join(errors.New("it has ended"), r.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read takes the process's lines until it ends.
func (r *RemoteServer) read() {
	dec := json.NewDecoder(r.p.out)
	var err error
	for {
		var l line
		if err = dec.Decode(&l); err != nil {
			break
		}
		r.take(l)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	r.p.out.Close()
	r.err = errors.Join(err, r.p.wait())
	close(r.ended)
}

func (r *RemoteServer) take(l line) {
	if l.Conn != nil {
		if r.seen != nil {
			r.seen(*l.Conn)
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if ack, ok := r.acks[l.Token]; ok {
		close(ack)
		delete(r.acks, l.Token)
	}
}

package xds

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Config says which istiod is asked, and as whom.
type Config struct {
	Server   istiod.Server
	Identity istiod.Identity
	// Network is the node's network; addresses of others are not used.
	Network string
	// Wait is the back-off between streams; the zero value is the usual one.
	Wait istiod.Backoff
	// Log gets trouble that heals by itself; nil discards.
	Log *slog.Logger
}

// Update is a new state, or why none comes. After an error the last Snapshot stays
// in force, and the source goes on trying.
type Update struct {
	Snapshot intent.Snapshot
	// Version counts the answers that are in the Snapshot.
	Version string
	Err     error
	// Unused lists what istiod asks for and this build does not do, a line each,
	// for example policies.
	Unused []string
	// Policies is the number of policies that istiod sent. None is enforced.
	Policies int
}

// Watch asks an istiod for the whole mesh and sends an Update for each change. The
// first one comes when everything that was asked for has been answered once. A
// receiver that is late gets only the newest. The channel is closed when ctx ends.
func Watch(ctx context.Context, c Config) (<-chan Update, error) {
	node, err := c.Identity.Proto()
	if err != nil {
		return nil, err
	}
	conn, err := c.Server.Connect()
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := &watcher{
		log: c.Log.With("istiod", c.Server.Address), mesh: newMesh(c.Network),
		unanswered: map[string]bool{addressType: true, authorizationType: true},
		wake:       make(chan struct{}, 1), updates: make(chan Update),
	}
	s := istiod.Subscription{Node: node, Types: []string{addressType, authorizationType}, Wait: c.Wait}
	go w.run(ctx, s, conn)
	return w.updates, nil
}

// watcher is one Watch. The subscription writes into the mesh, another goroutine
// sends what has become of it.
type watcher struct {
	log     *slog.Logger
	wake    chan struct{}
	updates chan Update

	mu         sync.Mutex
	mesh       *mesh
	unanswered map[string]bool // types without an answer yet
	answers    uint64
	dirty      bool  // there is a state that was not sent
	problem    error // not sent yet
	refused    map[string]error
}

func (w *watcher) run(ctx context.Context, s istiod.Subscription, conn *grpc.ClientConn) {
	defer close(w.updates)
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = s.Run(ctx, conn, w) }) // ends with ctx alone
	for {
		// What is sent is looked up when somebody takes it, or when there is news.
		updates, update := w.next()
		select {
		case <-ctx.Done():
			return
		case updates <- update:
			w.sent(update)
		case <-w.wake:
		}
	}
}

// next is what is to be sent; the channel is nil when there is nothing.
func (w *watcher) next() (chan<- Update, Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	version := strconv.FormatUint(w.answers, 10)
	switch {
	case w.dirty:
		return w.updates, Update{
			Snapshot: w.mesh.snapshot(), Version: version, Unused: w.unused(), Policies: len(w.mesh.policies),
		}
	case w.problem != nil:
		return w.updates, Update{Version: version, Err: w.problem}
	}
	return nil, Update{}
}

// unused lists also what was refused: istiod knows, its users may not.
func (w *watcher) unused() []string {
	all := w.mesh.unused()
	for _, name := range slices.Sorted(maps.Keys(w.refused)) {
		all = append(all, fmt.Sprintf("%s: refused: %v", name, w.refused[name]))
	}
	return all
}

func (w *watcher) sent(u Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case u.Err != nil:
		w.problem = nil
	case u.Version == strconv.FormatUint(w.answers, 10):
		w.dirty = false
	}
}

func (w *watcher) news() {
	select {
	case w.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Connected implements istiod.Handler.
func (w *watcher) Connected() { w.log.Info("a stream to istiod is open") }

// Take implements istiod.Handler.
func (w *watcher) Take(r istiod.Response) map[string]error {
	w.mu.Lock()
	defer w.mu.Unlock()
	refused := w.mesh.take(r)
	if w.refused == nil {
		w.refused = map[string]error{}
	}
	for _, res := range r.Resources {
		delete(w.refused, res.Name)
	}
	for _, name := range r.Removed {
		delete(w.refused, name)
	}
	for name, err := range refused {
		w.log.Warn("a resource of istiod is refused", "name", name, "err", err)
		w.refused[name] = err
	}
	delete(w.unanswered, r.TypeURL)
	w.answers++
	w.problem = nil
	if len(w.unanswered) == 0 {
		w.dirty = true
		w.news()
	}
	return refused
}

// Disconnected implements istiod.Handler.
func (w *watcher) Disconnected(err error, wait time.Duration) {
	w.log.Warn("no stream to istiod, what is known stays in force", "err", err, "retry_in", wait)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = err
	w.news()
}

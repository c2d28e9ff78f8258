package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/duomesh/duomesh/dataplane/source/xds/names"
	"github.com/duomesh/duomesh/internal/istiod"
)

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
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.NameWait == 0 {
		c.NameWait = time.Second
	}
	if c.Names.Log == nil {
		c.Names.Log = c.Log
	}
	w := &watcher{
		log: c.Log.With("istiod", c.Server.Address), config: c, mesh: newMesh(c), resolver: names.New(c.Names),
		unanswered: map[string]bool{addressType: true, authorizationType: true},
		wake:       make(chan struct{}, 1), updates: make(chan Update), refused: map[resource]error{},
	}
	s := istiod.Subscription{
		Node: node, Types: []string{addressType, authorizationType}, Wait: c.Wait, Token: c.Server.Token,
	}
	go w.run(ctx, s, conn)
	return w.updates, nil
}

// watcher is one Watch. The subscription and the resolver write into the mesh,
// another goroutine sends what has become of it.
type watcher struct {
	log      *slog.Logger
	config   Config
	resolver *names.Resolver
	wake     chan struct{}
	updates  chan Update

	mu         sync.Mutex
	mesh       *mesh
	unanswered map[string]bool // types without an answer yet
	changes    uint64          // answers of istiod and of name servers
	received   time.Time       // of the first answer that was not sent yet
	dirty      bool            // there is a state that was not sent
	patience   time.Time       // until when the first state may wait for names
	begun      bool            // the first state was sent
	problem    error           // not sent yet
	refused    map[resource]error
}

// resource is the name of one, and its type.
type resource struct{ typeURL, name string }

func (w *watcher) run(ctx context.Context, s istiod.Subscription, conn *grpc.ClientConn) {
	defer close(w.updates)
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = s.Run(ctx, conn, w) }) // ends with ctx alone
	wg.Go(func() { w.resolver.Run(ctx, w.resolved) })
	wg.Go(func() { w.hear(ctx) })
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
	version := strconv.FormatUint(w.changes, 10)
	switch {
	case w.dirty && !w.waits():
		return w.updates, Update{
			Snapshot: w.mesh.snapshot(), Version: version, Unused: w.unused(), Policies: w.mesh.allPolicies(),
			Received: w.received,
		}
	case w.problem != nil:
		return w.updates, Update{Version: version, Err: w.problem}
	}
	return nil, Update{}
}

// waits reports whether the first state waits for names.
func (w *watcher) waits() bool {
	if w.begun || !w.mesh.pending() && (w.config.Handoffs == nil || w.mesh.handoffs != nil) {
		return false
	}
	if w.patience.IsZero() {
		w.patience = time.Now().Add(w.config.NameWait)
		time.AfterFunc(w.config.NameWait, w.news)
	}
	return time.Now().Before(w.patience)
}

// unused lists also what was refused: istiod knows, its users may not.
func (w *watcher) unused() []string {
	all := w.mesh.unused()
	var refused []string
	for r, err := range w.refused {
		refused = append(refused, fmt.Sprintf("%s: refused: %v", r.name, err))
	}
	slices.Sort(refused)
	return append(all, refused...)
}

func (w *watcher) sent(u Update) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case u.Err != nil:
		if errors.Is(w.problem, u.Err) { // else there is a newer one to tell
			w.problem = nil
		}
	case u.Version == strconv.FormatUint(w.changes, 10):
		w.dirty, w.begun, w.received = false, true, time.Time{}
	default:
		w.begun = true
	}
}

func (w *watcher) news() {
	select {
	case w.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// changed marks that there is a state to be sent, once there is a whole one.
func (w *watcher) changed(at time.Time) {
	w.changes++
	if w.received.IsZero() {
		w.received = at
	}
	if len(w.unanswered) == 0 {
		w.dirty = true
		w.news()
	}
}

// resolved takes the answer for a name.
func (w *watcher) resolved(name string, a names.Answer) {
	at := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mesh.resolved(name, a)
	w.changed(at)
}

// hear takes what Gateways say, until nobody brings it any more.
func (w *watcher) hear(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case all, open := <-w.config.Handoffs:
			if !open {
				return
			}
			at := time.Now()
			w.mu.Lock()
			w.mesh.setHandoffs(all)
			w.config.Metrics.disputed.Set(float64(len(w.mesh.handoffLines())))
			w.changed(at)
			w.mu.Unlock()
		}
	}
}

// Connected implements istiod.Handler.
func (w *watcher) Connected() {
	w.log.Info("istiod has taken a stream")
	w.config.Metrics.connected.Set(1)
}

// Take implements istiod.Handler.
func (w *watcher) Take(r istiod.Response) map[string]error {
	at := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.mesh.renamed
	refused := w.mesh.take(r)
	if r.First { // what was refused before comes again, or is gone
		maps.DeleteFunc(w.refused, func(r0 resource, _ error) bool { return r0.typeURL == r.TypeURL })
	}
	if before != w.mesh.renamed {
		w.rename()
	}
	for _, name := range r.Removed {
		delete(w.refused, resource{r.TypeURL, name})
	}
	for _, res := range r.Resources {
		delete(w.refused, resource{r.TypeURL, res.Name})
	}
	for name, err := range refused {
		w.log.Warn("a resource of istiod is refused", "name", name, "err", err)
		w.refused[resource{r.TypeURL, name}] = err
	}
	w.config.Metrics.messages.WithLabelValues(r.TypeURL).Inc()
	w.config.Metrics.refused.WithLabelValues(r.TypeURL).Add(float64(len(refused)))
	delete(w.unanswered, r.TypeURL)
	w.problem = nil
	w.changed(at)
	return refused
}

// rename tells the resolver which names are wanted. One that went and came in the
// same answer has its answer already, and would not get it again.
func (w *watcher) rename() {
	w.resolver.Want(slices.Collect(maps.Keys(w.mesh.names)))
	for name, h := range w.mesh.names {
		if a, known := w.resolver.Last(name); known && !h.answered {
			w.mesh.resolved(name, a)
		}
	}
}

// Disconnected implements istiod.Handler.
func (w *watcher) Disconnected(err error, wait time.Duration) {
	w.log.Warn("no stream to istiod, what is known stays in force", "err", err, "retry_in", wait)
	w.config.Metrics.connected.Set(0)
	w.config.Metrics.ends.WithLabelValues(string(istiod.ReasonOf(err))).Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = err
	w.news()
}

package names

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Config says who is asked, and how often.
type Config struct {
	// Servers are asked in this order, each as "host:port", the next when one does
	// not answer.
	Servers []string
	// Timeout bounds one question to one server; 0 means 2 s.
	Timeout time.Duration
	// Least and Most bound how long an answer is kept, whatever its TTL; 0 means
	// 1 s and 5 min. What fails is asked again after Least, growing to a minute.
	Least, Most time.Duration
	// Log gets failures; nil discards.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	or := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	or(&c.Timeout, 2*time.Second)
	or(&c.Least, time.Second)
	or(&c.Most, 5*time.Minute)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Answer is what a name is known to be. After a failure the addresses are those of
// the last answer. That there is none is an answer, too: it counts once it has been
// given for as long as the server said that it holds (RFC 2308).
type Answer struct {
	// Addresses are in their order, each once.
	Addresses []netip.Addr
	// Err is why the last question was not answered, or not for one family.
	Err error
}

func (a Answer) equal(b Answer) bool {
	return slices.Equal(a.Addresses, b.Addresses) && text(a.Err) == text(b.Err)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// atOnce bounds the questions that are open at one time.
const atOnce = 8

// mostRetry is the longest wait after a failure.
const mostRetry = time.Minute

// Resolver keeps the answers of the names that are wanted.
type Resolver struct {
	config Config
	wake   chan struct{}

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is one wanted name.
type entry struct {
	next     time.Time
	asking   bool
	answered bool
	last     Answer
	families [2][]netip.Addr // A, AAAA
	// until is when an answer that there is none counts; zero: the last one was not.
	until time.Time
	retry *backoff.ExponentialBackOff
}

// New makes a Resolver that wants nothing yet. Every name is taken as fully
// qualified.
func New(c Config) *Resolver {
	return &Resolver{config: c.withDefaults(), wake: make(chan struct{}, 1), entries: map[string]*entry{}}
}

// Want replaces the set of names. New ones are asked for at once, what is known of
// the others is kept.
func (r *Resolver) Want(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := map[string]*entry{}
	for _, name := range names {
		if wanted[name] = r.entries[name]; wanted[name] == nil {
			wanted[name] = r.newEntry()
		}
	}
	r.entries = wanted
	r.rouse()
}

// Last returns what was told last of a name, if anything was.
func (r *Resolver) Last(name string) (Answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[name]
	if e == nil || !e.answered {
		return Answer{}, false
	}
	return e.last, true
}

func (r *Resolver) newEntry() *entry {
	e := &entry{retry: backoff.NewExponentialBackOff()}
	e.retry.InitialInterval, e.retry.MaxInterval = r.config.Least, max(r.config.Least, min(r.config.Most, mostRetry))
	e.retry.Reset()
	return e
}

func (r *Resolver) rouse() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Run asks until ctx ends. tell is called for the first answer or failure of a name
// and for each that differs, by several goroutines, one after the other for one name.
func (r *Resolver) Run(ctx context.Context, tell func(name string, a Answer)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, atOnce)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
		due, wait := r.due()
		for name, e := range due {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Go(func() {
				defer func() { <-room }()
				r.ask(ctx, name, e, tell)
				r.rouse()
			})
		}
		timer.Reset(wait)
	}
}

// due returns what is to be asked now, and how long nothing else is.
func (r *Resolver) due() (map[string]*entry, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, wait := time.Now(), time.Hour
	due := map[string]*entry{}
	for name, e := range r.entries {
		switch left := e.next.Sub(now); {
		case e.asking:
		case left <= 0:
			e.asking = true
			due[name] = e
		default:
			wait = min(wait, left)
		}
	}
	return due, wait
}

func (r *Resolver) ask(ctx context.Context, name string, e *entry, tell func(string, Answer)) {
	found, keep, err := r.lookup(ctx, name)
	if ctx.Err() != nil {
		return
	}
	a, news := r.learn(e, found, keep, err)
	if !news {
		return
	}
	switch {
	case a.Err == nil:
	case len(a.Addresses) > 0:
		r.config.Log.Warn("a name is not resolved, its last answer stays in force", "name", name, "err", a.Err)
	default:
		r.config.Log.Warn("a name is not resolved, it has no address", "name", name, "err", a.Err)
	}
	tell(name, a)
}

// miss is called with each answer that there is none, and how long it holds.
func (r *Resolver) miss(e *entry, holds time.Duration) {
	switch now := time.Now(); {
	case e.until.IsZero():
		e.until = now.Add(min(max(holds, r.config.Least), r.config.Most))
	case !now.Before(e.until):
		e.families = [2][]netip.Addr{}
	}
}

// learn puts what was found into the entry, and says when to ask again.
func (r *Resolver) learn(e *entry, found [2]family, keep time.Duration, err error) (_ Answer, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := Answer{Err: err}
	switch {
	case found[0].none && found[1].none:
		r.miss(e, min(found[0].ttl, found[1].ttl))
	case err == nil:
		e.until = time.Time{}
	}
	if err == nil && len(found[0].addrs)+len(found[1].addrs) == 0 {
		a.Err = errors.New("it has neither an A nor an AAAA record")
	} else {
		for i, f := range found {
			if f.err == nil {
				e.families[i] = f.addrs
			}
		}
	}
	a.Addresses = slices.Concat(e.families[0], e.families[1])
	if a.Err == nil {
		e.retry.Reset()
	} else {
		keep = e.retry.NextBackOff()
	}
	e.next, e.asking = time.Now().Add(min(max(keep, r.config.Least), r.config.Most)), false
	news = !e.answered || !a.equal(e.last)
	e.answered, e.last = true, a
	return a, news
}

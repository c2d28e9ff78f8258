package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Admin asks Envoy's admin API on its unix socket.
type Admin struct {
	client *http.Client
}

// NewAdmin makes a client. Nothing is dialled before it is used.
func NewAdmin(socket string) *Admin {
	return &Admin{client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     10 * time.Second,
	}}}
}

// Get returns the answer to a path with its query.
func (a *Admin) Get(ctx context.Context, path string) ([]byte, error) {
	return a.ask(ctx, http.MethodGet, path)
}

// Post is Get for what changes something.
func (a *Admin) Post(ctx context.Context, path string) error {
	_, err := a.ask(ctx, http.MethodPost, path)
	return err
}

func (a *Admin) ask(ctx context.Context, method, path string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := a.client.Do(q)
	if err != nil {
		return nil, fmt.Errorf("ask Envoy %s: %w", path, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("ask Envoy %s: %w", path, err)
	}
	if r.StatusCode/100 != 2 {
		return nil, fmt.Errorf("ask Envoy %s: %s: %s", path, r.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// awaitPoll is how often an Envoy that is starting is asked.
const awaitPoll = 10 * time.Millisecond

// Await returns when Envoy answers.
func (a *Admin) Await(ctx context.Context) error {
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	for {
		if _, err := a.Get(ctx, "/ready?format=text"); err == nil || strings.Contains(err.Error(), "503") {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// livePoll is how often an Envoy that waits for something is asked.
const livePoll = 50 * time.Millisecond

// AwaitLive returns when Envoy has all that it needs to begin.
func (a *Admin) AwaitLive(ctx context.Context) error {
	tick := time.NewTicker(livePoll)
	defer tick.Stop()
	for {
		if live, _ := a.Live(ctx); live {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Live reports whether Envoy has all that it needs to begin; else why not, in a word of
// Envoy's own: "PRE_INITIALIZING" and so on.
func (a *Admin) Live(ctx context.Context) (bool, string) {
	_, err := a.Get(ctx, "/ready")
	if err == nil {
		return true, ""
	}
	return false, err.Error()
}

// Counters returns the counters and gauges whose names match a regular expression.
func (a *Admin) Counters(ctx context.Context, pattern string) (map[string]uint64, error) {
	body, err := a.Get(ctx, "/stats?format=json&filter="+url.QueryEscape(pattern))
	if err != nil {
		return nil, err
	}
	var got struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		return nil, fmt.Errorf("read Envoy's counters: %w", err)
	}
	all := map[string]uint64{}
	for _, s := range got.Stats {
		var n uint64
		if s.Name != "" && json.Unmarshal(s.Value, &n) == nil { // histograms have none
			all[s.Name] = n
		}
	}
	return all, nil
}

// Drain asks the listeners to end: connections are told to close, and new ones are
// taken until drainTime is over.
func (a *Admin) Drain(ctx context.Context) error {
	return a.Post(ctx, "/drain_listeners?graceful")
}

// Close lets go of what is open.
func (a *Admin) Close() { a.client.CloseIdleConnections() }

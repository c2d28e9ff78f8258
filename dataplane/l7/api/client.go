package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client asks a waypoint. Its owner calls Close.
type Client struct{ http *http.Client }

// NewClient asks at address: host:port, or unix:PATH. Nothing is dialled before it is
// used.
func NewClient(address string) *Client {
	network, where := Network(address)
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, where)
		},
	}}}
}

// Network splits an address into what net.Dial takes.
func Network(address string) (network, where string) {
	if path, unix := strings.CutPrefix(address, "unix:"); unix {
		return "unix", path
	}
	return "tcp", address
}

// Status asks for the status. With a version it waits until the waypoint has dealt with
// that version of its source.
func (c *Client) Status(ctx context.Context, version string) (Status, error) {
	body, err := c.Get(ctx, "/status?version="+url.QueryEscape(version))
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(body, &s); err != nil {
		return Status{}, fmt.Errorf("read the status of the waypoint: %w", err)
	}
	if s.Schema != Schema || s.Version != Version {
		return Status{}, fmt.Errorf("the waypoint speaks %s version %d, this is %s version %d", s.Schema, s.Version, Schema, Version)
	}
	return s, nil
}

// Counters asks for Envoy's counters and gauges whose names match a regular expression.
func (c *Client) Counters(ctx context.Context, pattern string) (map[string]uint64, error) {
	body, err := c.Get(ctx, "/counters?match="+url.QueryEscape(pattern))
	if err != nil {
		return nil, err
	}
	var all map[string]uint64
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, fmt.Errorf("read the counters of the waypoint: %w", err)
	}
	return all, nil
}

// Forwarded is how many requests Envoy has sent to the endpoints of each service of
// HTTP, by the service's name without its domain, since it started: those that go through
// the waypoint, and those that a route leads to.
func (c *Client) Forwarded(ctx context.Context) (map[string]uint64, error) {
	counters, err := c.Counters(ctx, `^cluster\.(inbound-vip\|[0-9]+\|(http|grpc)|outbound\|).*upstream_rq_total$`)
	if err != nil {
		return nil, err
	}
	all := map[string]uint64{}
	for name, n := range counters {
		// "cluster.inbound-vip|80|http|host;.upstream_rq_total", "cluster.outbound|80||host;…"
		if parts := strings.Split(name, "|"); len(parts) == 4 {
			host, _, _ := strings.Cut(parts[3], ";")
			service, _, _ := strings.Cut(host, ".")
			all[service] += n
		}
	}
	return all, nil
}

// Get returns the answer to a path with its query.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://waypoint"+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := c.http.Do(q)
	if err != nil {
		return nil, fmt.Errorf("ask the waypoint: %w", err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("ask the waypoint: %w", err)
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the waypoint: %w", errors.New(strings.TrimSpace(string(body))))
	}
	return body, nil
}

// Close lets go of what is open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

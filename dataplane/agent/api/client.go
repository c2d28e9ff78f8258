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
	"os"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

// AdminAddress is where an agent's admin API listens by default, on its node's
// loopback.
const AdminAddress = "127.0.0.1:15200"

// Place is where an admin API is reached.
type Place struct {
	// Address is "host:port" or "unix:PATH".
	Address string `json:"address"`
	// Netns is a path to the network namespace in which Address is meant;
	// "" is the caller's.
	Netns string `json:"netns,omitempty"`
}

// String names the place for people.
func (p Place) String() string {
	if p.Netns == "" {
		return p.Address
	}
	return p.Address + " in " + p.Netns
}

// Client asks one admin API. It may be used concurrently.
type Client struct {
	place Place
	http  *http.Client
}

// NewClient makes a client; nothing is dialled before it is asked. The caller
// closes it.
func NewClient(p Place) *Client {
	t := &http.Transport{DialContext: p.dial}
	return &Client{place: p, http: &http.Client{Transport: t}}
}

// Close ends idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func (p Place) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	// One attempt after the other: all on the thread that InNetns has moved.
	d := net.Dialer{FallbackDelay: -1}
	network, address := "tcp", p.Address
	if path, ok := strings.CutPrefix(p.Address, "unix:"); ok {
		network, address = "unix", path
	}
	if p.Netns == "" {
		return d.DialContext(ctx, network, address)
	}
	ns, err := os.Open(p.Netns)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	var conn net.Conn
	err = kernel.InNetns(ns, func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Status asks for the state of the node. With seen it is answered only when the
// source's version of that name has been applied or refused.
func (c *Client) Status(ctx context.Context, seen string) (Status, error) {
	q := url.Values{}
	if seen != "" {
		q.Set("seen", seen)
	}
	return get[Status](ctx, c, "/status", q, StatusSchema)
}

// Services lists what was applied.
func (c *Client) Services(ctx context.Context) (Services, error) {
	return get[Services](ctx, c, "/services", nil, ServicesSchema)
}

// Workloads lists what was applied.
func (c *Client) Workloads(ctx context.Context) (Workloads, error) {
	return get[Workloads](ctx, c, "/workloads", nil, WorkloadsSchema)
}

// Policies lists the policies that were received.
func (c *Client) Policies(ctx context.Context) (Policies, error) {
	return get[Policies](ctx, c, "/policies", nil, PoliciesSchema)
}

// Endpoints lists where frontends lead.
func (c *Client) Endpoints(ctx context.Context) (Endpoints, error) {
	return get[Endpoints](ctx, c, "/endpoints", nil, EndpointsSchema)
}

// Maps says how full the kernel's maps are.
func (c *Client) Maps(ctx context.Context) (Maps, error) {
	return get[Maps](ctx, c, "/maps", nil, MapsSchema)
}

// Exits says how connections ended.
func (c *Client) Exits(ctx context.Context) (Exits, error) {
	return get[Exits](ctx, c, "/exits", nil, ExitsSchema)
}

// Audit compares the kernel's maps with what was applied.
func (c *Client) Audit(ctx context.Context) (Audit, error) {
	return get[Audit](ctx, c, "/audit", nil, AuditSchema)
}

// Explain says where a connection of a pod to an "address:port" goes. protocol
// is "tcp" or "udp".
func (c *Client) Explain(ctx context.Context, pod, to, protocol string) (Explanation, error) {
	q := url.Values{"from": {pod}, "to": {to}, "protocol": {protocol}}
	return get[Explanation](ctx, c, "/explain", q, ExplainSchema)
}

// BadRequestError is an answer that says that the question was wrong.
type BadRequestError string

// Error implements error.
func (b BadRequestError) Error() string { return string(b) }

// mostBytes bounds an answer: endpoints of a hundred thousand frontends fit.
const mostBytes = 1 << 30

func get[T any](ctx context.Context, c *Client, path string, q url.Values, schema string) (T, error) {
	var answer struct {
		Header
		raw json.RawMessage
	}
	var value T
	fail := func(err error) (T, error) {
		return value, fmt.Errorf("ask admin API at %s: %w", c.place, err)
	}
	u := url.URL{Scheme: "http", Host: "node", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fail(plainError(err))
	}
	defer res.Body.Close()
	answer.raw, err = io.ReadAll(io.LimitReader(res.Body, mostBytes))
	switch {
	case err != nil:
		return fail(err)
	case res.StatusCode == http.StatusBadRequest:
		return value, BadRequestError(strings.TrimSpace(string(answer.raw)))
	case res.StatusCode == http.StatusServiceUnavailable:
		return value, errors.New(strings.TrimSpace(string(answer.raw))) // it was reached, and says why not
	case res.StatusCode != http.StatusOK:
		return fail(fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(answer.raw))))
	}
	if err := json.Unmarshal(answer.raw, &answer.Header); err != nil {
		return fail(err)
	}
	if answer.Schema != schema || answer.Version != Version {
		return fail(fmt.Errorf("it answers with %q version %d, this program knows %s version %d",
			answer.Schema, answer.Version, schema, Version))
	}
	if err := json.Unmarshal(answer.raw, &value); err != nil {
		return fail(err)
	}
	return value, nil
}

// plainError drops the made-up URL from an error of package http.
func plainError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

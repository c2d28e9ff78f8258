package l7_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/vishvananda/netlink"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// address gives this machine's loopback an address for the time of a test.
func address(t *testing.T, addrs ...string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range addrs {
		a := netip.MustParseAddr(text)
		add := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: 0x02} // IFA_F_NODAD
		if err := netlink.AddrAdd(lo, add); err != nil {
			t.Fatalf("address %s: %v", text, err)
		}
		t.Cleanup(func() { netlink.AddrDel(lo, add) })
	}
}

// capture hands every connection to an address over, as the kernel engine would: the
// listener gets it, and SO_ORIGINAL_DST says where it was going.
func capture(t *testing.T, vips ...string) {
	t.Helper()
	address(t, vips...) // a way to it
	for _, vip := range vips {
		proto := iptables.ProtocolIPv4
		if netip.MustParseAddr(vip).Is6() {
			proto = iptables.ProtocolIPv6
		}
		tables, err := iptables.NewWithProtocol(proto)
		if err != nil {
			t.Skipf("NOT RUN: no iptables: %v", err)
		}
		rule := []string{"-d", vip, "-p", "tcp", "-j", "REDIRECT", "--to-ports", fmt.Sprint(l7.HandOffPort)}
		if err := tables.Append("nat", "OUTPUT", rule...); err != nil {
			t.Skipf("NOT RUN: no REDIRECT by iptables: %v", err)
		}
		t.Cleanup(func() { tables.Delete("nat", "OUTPUT", rule...) })
	}
}

// backend is an HTTP server that says its name.
func backend(t *testing.T, at, name string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		io.WriteString(out, name)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// waypoint is a running waypoint, asked by its admin API.
type waypoint struct {
	*api.Client
	end    context.CancelFunc
	result chan error
}

// config is that of a waypoint in a test. No engine hands over here.
func config(t *testing.T) l7.Config {
	t.Helper()
	// Sockets need a short path.
	dir, err := os.MkdirTemp("", "l7-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "envoy.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return l7.Config{
		Name: "demo/waypoint", Dir: dir, Envoy: envoyPath(t), Concurrency: 1, Descriptors: 20000,
		Output: log, Drain: -1, Hold: 100 * time.Millisecond,
		Node:  &core.Node{Id: "waypoint~10.0.0.3~waypoint-0.demo~demo.svc.cluster.local", Cluster: "waypoint.demo"},
		Ready: "127.0.0.1:15021", Admin: "unix:" + filepath.Join(dir, "api.sock"),
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

func run(t *testing.T, c l7.Config, control l7.Control) *waypoint {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &waypoint{Client: api.NewClient(c.Admin), end: cancel, result: make(chan error, 1)}
	go func() { w.result <- l7.Run(ctx, c, control) }()
	t.Cleanup(func() {
		w.stop(t)
		w.Close()
	})
	return w
}

// stop ends the waypoint and waits for its end. It may be repeated.
func (w *waypoint) stop(t *testing.T) {
	t.Helper()
	if w.end == nil {
		return
	}
	w.end()
	w.end = nil
	if err := <-w.result; err != nil {
		t.Errorf("the waypoint ended with: %v", err)
	}
}

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// until waits until the status is as wanted.
func (w *waypoint) until(t *testing.T, what string, holds func(s api.Status) bool) api.Status {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s, err := w.Status(context.Background(), "")
		if err == nil && holds(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the waypoint is not %s: %+v, %v", what, s, err)
		}
		select {
		case err := <-w.result:
			w.result <- err
			t.Fatalf("the waypoint has ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func ready(s api.Status) bool { return s.Ready }

// client makes requests over connections that it keeps, and counts those.
type client struct {
	http  *http.Client
	dials int
}

func newClient(t *testing.T) *client {
	t.Helper()
	c := &client{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: patience}}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// get returns the status and the body, or the error as text.
func (c *client) get(url string, header ...string) (int, string) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if !i.Reused {
			c.dials++
		}
	}}
	q, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := c.http.Do(q)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return r.StatusCode, err.Error()
	}
	return r.StatusCode, string(body)
}

// share asks n times and returns how often each answer came.
func (c *client) share(url string, n int) map[string]int {
	got := map[string]int{}
	for range n {
		status, body := c.get(url)
		if status != http.StatusOK {
			body = fmt.Sprintf("%d %s", status, body)
		}
		got[body]++
	}
	return got
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Envoy does not listen before the engine serves: an older listener has no answers on
// many kernels.
func TestListenersComeAfterTheEngine(t *testing.T) {
	var serves atomic.Bool
	w, _ := relaying(t, nil, -1, func(c *l7.Config) {
		c.HandOff = func() error {
			if serves.Load() {
				return nil
			}
			return errors.New("nobody serves")
		}
	})
	w.until(t, "waiting for the engine", func(s api.Status) bool { return strings.Contains(s.Waiting, "nobody serves") })
	deadline := time.Now().Add(patience)
	for !w.has("handoff_needs_identity") && time.Now().Before(deadline) {
		<-time.After(10 * time.Millisecond)
	}
	at := fmt.Sprintf("127.0.0.1:%d", l7.HandOffPort)
	for range 50 {
		if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", at); err == nil {
			c.Close()
			t.Fatal("Envoy listens before the engine serves")
		}
		<-time.After(10 * time.Millisecond)
	}
	serves.Store(true)
	w.until(t, "ready", ready)
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

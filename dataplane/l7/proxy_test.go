package l7_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/ads"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/istiod"
)

// proxied starts a waypoint that is told by PROXY headers alone.
func proxied(t *testing.T) *waypoint {
	t.Helper()
	c := config(t)
	c.ProxyPort, c.ProxyOnly = intent.ProxyV2.Port(), true
	address(t, echo1, echo2)
	backend(t, echo1+":8080", "v1")
	backend(t, echo2+":8080", "v2")
	updates := make(chan l7.Update, 1)
	updates <- l7.Update{Snapshot: mesh(90, 10), Version: "first"}
	w := run(t, c, l7.NewEmbedded(c, intent.Place{}, "test", updates))
	w.until(t, "ready", ready)
	return w
}

// header is what the engine writes in front of a connection's first bytes: section 2.2
// of the PROXY protocol. Of another version and command it is none of ours.
func header(versionAndCommand byte, to netip.AddrPort) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), versionAndCommand, 0x11, 0, 12)
	from := netip.MustParseAddr("10.0.0.77")
	if to.Addr().Is6() {
		from, b[13], b[15] = netip.MustParseAddr("fd00::77"), 0x21, 36
	}
	b = append(b, from.AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, 40000)
	return binary.BigEndian.AppendUint16(b, to.Port())
}

// headed is a connection whose first bytes are written behind a header, in one write.
type headed struct {
	net.Conn
	header []byte
}

func (h *headed) Write(b []byte) (int, error) {
	if h.header == nil {
		return h.Conn.Write(b)
	}
	all := append(bytes.Clone(h.header), b...)
	h.header = nil
	n, err := h.Conn.Write(all)
	return max(0, n-(len(all)-len(b))), err
}

const proxyAddress = "127.0.0.1:15039"

// through is a client whose connections come to the waypoint with such headers.
func through(t *testing.T, makeHeader func(to netip.AddrPort) []byte) *client {
	t.Helper()
	c := newClient(t)
	transport := c.http.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, proxyAddress)
		if err != nil {
			return nil, err
		}
		return &headed{conn, makeHeader(netip.MustParseAddrPort(to))}, nil
	}
	return c
}

func proxy(to netip.AddrPort) []byte { return header(0x21, to) }

func TestRequestsAreSplitBehindAProxyHeader(t *testing.T) {
	w := proxied(t)
	c := through(t, proxy)
	got := c.share("http://"+vip, enough)
	within(t, "v2", got["v2"], .1)
	if got["v1"]+got["v2"] != enough || c.dials != 1 {
		t.Errorf("answers %v over %d connections", got, c.dials)
	}
	if got := c.with("http://["+vip6+"]", 200, "x-canary", "yes"); got["v2"] != 200 {
		t.Errorf("over IPv6, with the header of a rule: %v", got)
	}
	// No answer is lost where each request closes its connection.
	c.http.Transport.(*http.Transport).DisableKeepAlives = true
	if got := c.share("http://"+vip, 500); got["v1"]+got["v2"] != 500 {
		t.Errorf("with connections of one request each: %v", got)
	}
	w.wantCounted(t, `handoff_proxy_v2\.no_filter_chain_match$`, 0)
}

// wantCounted fails unless Envoy's counters of a name come to n.
func (w *waypoint) wantCounted(t *testing.T, match string, n uint64) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		counters, err := w.Counters(context.Background(), match)
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(0)
		for _, v := range counters {
			sum += v
		}
		if sum == n && len(counters) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("counted %v, want %d", counters, n)
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// What has no header, another one, or one for an address that no service has, is
// refused and counted. The port of the other form is not there.
func TestProxyHeadersThatAreRefused(t *testing.T) {
	w := proxied(t)
	for name, c := range map[string]struct {
		first   func(to netip.AddrPort) []byte
		to      string
		counter string
	}{
		"none": {func(netip.AddrPort) []byte { return nil }, vip, `proxy_proto\..*not_found_disallowed$`},
		"version 1": {func(to netip.AddrPort) []byte {
			return []byte("PROXY TCP4 10.0.0.77 " + to.Addr().String() + " 40000 80\r\n")
		}, vip, `proxy_proto\..*versions\.v1\.disallowed$|proxy_proto\..*v1.*disallowed$`},
		"LOCAL":           {func(to netip.AddrPort) []byte { return header(0x20, to) }, vip, `handoff_proxy_v2\.no_filter_chain_match$`},
		"unknown address": {proxy, "10.96.0.99", `handoff_proxy_v2\.no_filter_chain_match$`},
		"the port itself": {func(netip.AddrPort) []byte { return proxy(netip.MustParseAddrPort(proxyAddress)) }, vip, `handoff_proxy_v2\.no_filter_chain_match$`},
		"Kmesh's metadata": {func(netip.AddrPort) []byte {
			return []byte("\x01\x00\x00\x00\x06\x0a\x60\x00\x0a\x00\x50\xfe\x00\x00\x00\x00")
		}, vip, `proxy_proto\..*not_found_disallowed$`},
	} {
		before, err := w.Counters(context.Background(), c.counter)
		if err != nil {
			t.Fatal(err)
		}
		sum := uint64(0)
		for _, v := range before {
			sum += v
		}
		client := through(t, c.first)
		client.http.Transport.(*http.Transport).DisableKeepAlives = true
		if status, body := client.get("http://" + c.to); status != 0 {
			t.Errorf("%s: served: %d %s", name, status, body)
		}
		t.Run(name, func(t *testing.T) { w.wantCounted(t, c.counter, sum+1) })
	}
	if on, err := net.Dial("tcp", "127.0.0.1:15029"); err == nil {
		on.Close()
		t.Error("the port of the other form listens")
	}
}

// A connection on which the client is silent for longer than Envoy's own limit for
// such filters would be: it is not closed, and its first request is answered.
func TestSilentConnectionsBehindAProxyHeaderStay(t *testing.T) {
	w := proxied(t)
	body, err := w.Get(context.Background(), "/config")
	if err != nil {
		t.Fatal(err)
	}
	// The limit is 15 s where it is not said; 0 is none.
	if i := strings.Index(string(body), `"handoff_proxy_v2"`); i < 0 || !strings.Contains(string(body), `"listener_filters_timeout": "0s"`) {
		t.Error("Envoy has a limit of time for the header")
	}
	conn, err := net.Dial("tcp", proxyAddress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, part := range [][]byte{proxy(netip.MustParseAddrPort(vip + ":80"))[:7], proxy(netip.MustParseAddrPort(vip + ":80"))[7:], []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")} {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("%q, %v", answer, err)
	}
}

// What makes no sense together is refused before anything starts.
func TestPortsOfTwoForms(t *testing.T) {
	for want, change := range map[string]func(c *l7.Config){
		"two forms of hand-off":    func(c *l7.Config) { c.ProxyPort = l7.HandOffPort },
		"have a port of their own": func(c *l7.Config) { c.ProxyOnly = true },
		"ask no engine":            func(c *l7.Config) { c.ProxyOnly, c.ProxyPort, c.HandOff = true, 1, func() error { return nil } },
	} {
		c := config(t)
		change(&c)
		err := l7.Run(context.Background(), c, l7.NewEmbedded(c, intent.Place{}, "test", nil))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// istiod's own chains serve what comes with a PROXY header, by a second copy of
// main_internal.
func TestRelayServesProxyHeaders(t *testing.T) {
	c := config(t)
	c.ProxyPort = intent.ProxyV2.Port()
	s := startScripted(t)
	address(t, echo1, echo2)
	backend(t, echo1+":8080", "v1")
	backend(t, echo2+":8080", "v2")
	s.set(ads.Endpoints, echoV1, plain(echoV1, echo1))
	s.set(ads.Endpoints, echoV2, plain(echoV2, echo2))
	capture(t, echoVIP)
	control, err := l7.NewIstiod(c, istiod.Server{Address: scriptedAt, Plaintext: true}, "xds:"+scriptedAt)
	if err != nil {
		t.Fatal(err)
	}
	w := run(t, c, control)
	st := w.until(t, "ready", ready)
	if text := s.answer(ads.Listeners); text != "" {
		t.Errorf("the listeners were refused: %s", text)
	}
	for _, kind := range []string{"hand-off-listener", "hand-off-proxy-v2-listener"} {
		if !slices.ContainsFunc(st.Changes, func(c api.Change) bool { return c.Kind == kind && c.Count == 1 }) {
			t.Errorf("%s is not counted: %+v", kind, st.Changes)
		}
	}
	for name, c := range map[string]*client{"a PROXY header": through(t, proxy), "SO_ORIGINAL_DST": newClient(t)} {
		got := c.share("http://"+echoVIP, enough)
		within(t, "v2 by "+name, got["v2"], .1)
		if got["v1"]+got["v2"] != enough || c.dials != 1 {
			t.Errorf("%s: answers %v over %d connections", name, got, c.dials)
		}
	}
	// New weights reach both.
	s.edit(t, weigh(t, 0))
	for name, c := range map[string]*client{"a PROXY header": through(t, proxy), "SO_ORIGINAL_DST": newClient(t)} {
		deadline := time.Now().Add(patience)
		for got := c.share("http://"+echoVIP, 20); got["v2"] != 20; got = c.share("http://"+echoVIP, 20) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: still %v", name, got)
			}
		}
	}
}

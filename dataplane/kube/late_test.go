package kube

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// gate is a watch that stays silent while it is held.
type gate struct {
	mu   sync.Mutex
	open *sync.Cond
	held bool
}

func newGate() *gate {
	g := &gate{}
	g.open = sync.NewCond(&g.mu)
	return g
}

func (g *gate) hold(held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = held
	g.open.Broadcast()
}

func (g *gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.held {
		g.open.Wait()
	}
}

type gated struct {
	io.ReadCloser
	gate *gate
}

// Read implements io.Reader.
func (b gated) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.gate.pass()
	return n, err
}

type transport func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// late returns a configuration whose watch of namespaces goes through a gate.
func (c *cluster) late() (*rest.Config, *gate) {
	g := newGate()
	config := rest.CopyConfig(c.server.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return transport(func(q *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(q)
			if err == nil && strings.HasSuffix(q.URL.Path, "/namespaces") && q.URL.Query().Get("watch") != "" {
				res.Body = gated{res.Body, g}
			}
			return res, err
		})
	})
	return config, g
}

// TestLateNamespaces: the watch of namespaces is behind. What the plugin had enrolled by the
// label that stands is not taken out by the one that stood.
func TestLateNamespaces(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	c.namespace("shop", "")
	config, g := c.late()
	r := c.start(config)
	c.eventually("synced", r.Synced)
	g.hold(true)
	defer g.hold(false)
	c.label("shop", `"Kmesh"`)
	pod := c.pod("shop", "web-0", nil)
	p := c.node.pod(string(pod.UID), newNetns(t))
	v, err := api.Admit(t.Context(), c.socket, api.Sandbox{Pod: "shop/web-0", UID: string(pod.UID), ID: "s1", Netns: p.netns})
	must(t, err)
	if !v.Managed || c.has() != "shop/web-0" {
		t.Fatalf("not admitted: %+v, %s", v, c.has())
	}
	c.running(pod)
	c.eventually("what is known of its namespace is old", func() bool {
		labels, known := r.namespaceLabels("shop")
		_, there, err := r.pods.GetStore().GetByKey("shop/web-0")
		return known && labels[ModeLabel] == "" && there && err == nil
	})
	c.eventually("the annotation follows", func() bool { return c.annotation(pod) == RedirectionEnabled })
	if got := c.has(); got != "shop/web-0" {
		t.Errorf("enrolled are %q", got)
	}
	// Its own label is known: by that it leaves, whatever its namespace says.
	c.labelPod("web-0", `"none"`)
	c.eventually("it leaves by its own label", func() bool { return c.annotation(pod) == "" && c.has() == "" })
	c.labelPod("web-0", "null")
	g.hold(false)
	c.eventually("the namespace's label is heard of", func() bool { return c.annotation(pod) == RedirectionEnabled })
	c.label("shop", "null")
	c.eventually("and its end", func() bool { return c.annotation(pod) == "" && c.has() == "" })
}

// TestNobodyLeavesByWhatCannotBeAsked: while the API server does not say which label stands
// the pod stays as it is.
func TestNobodyLeavesByWhatCannotBeAsked(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	var refuse sync.Map
	config := rest.CopyConfig(c.server.Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return transport(func(q *http.Request) (*http.Response, error) {
			if _, no := refuse.Load(q.URL.Path); no {
				return nil, io.ErrUnexpectedEOF
			}
			return next.RoundTrip(q)
		})
	})
	r := c.start(config)
	pod := c.pod("shop", "web-0", nil)
	c.live(pod)
	c.eventually("enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	refuse.Store("/api/v1/namespaces/shop", true)
	c.label("shop", "null")
	c.eventually("the log says what could not be asked", func() bool { return r.log.has("shop/web-0", "labels of namespace shop") })
	if got := c.has(); got != "shop/web-0" {
		t.Errorf("enrolled are %q", got)
	}
	refuse.Clear()
	c.eventually("it leaves", func() bool { return c.annotation(pod) == "" && c.has() == "" })
}

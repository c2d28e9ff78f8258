package xds

import (
	"context"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// watched is a Watch that asks a scripted control plane.
type watched struct {
	*testing.T
	server  *adstest.Server
	updates <-chan Update
	next    int // of the server's requests
}

// watch starts both. The server has nothing but what was given; config may change how
// it is asked.
func watch(t *testing.T, o adstest.Options, config func(*Config), first ...*discovery.Resource) *watched {
	t.Helper()
	s, err := adstest.Start(o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	s.Change(addressType, first)
	c := Config{
		Server:   istiod.Server{Address: s.Address(), Plaintext: true},
		Identity: istiod.Identity{Kind: "ztunnel", IP: "10.0.0.1", Pod: "agent", Namespace: "mesh", Node: "a"},
		Wait:     istiod.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond},
	}
	if config != nil {
		config(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	updates, err := Watch(ctx, c)
	must(t, err)
	w := &watched{T: t, server: s, updates: updates}
	t.Cleanup(func() {
		cancel()
		for range updates { // until it is closed
		}
	})
	return w
}

// long bounds what must happen.
const long = 30 * time.Second

// until returns the first update that is as wanted; the others before it go by.
func (w *watched) until(what string, is func(Update) bool) Update {
	w.Helper()
	late := time.After(long)
	for {
		select {
		case u := <-w.updates:
			if is(u) {
				return u
			}
		case <-late:
			w.Fatalf("never: %s", what)
		}
	}
}

// state returns the first update with a state that has these services, each written
// "name=endpoint,endpoint".
func (w *watched) state(want string) Update {
	w.Helper()
	last := "no state"
	late := time.After(long)
	for {
		select {
		case u := <-w.updates:
			if u.Err != nil {
				continue
			}
			must(w, u.Snapshot.Validate())
			if last = written(u.Snapshot); last == want {
				return u
			}
		case <-late:
			w.Fatalf("never: %s; the last is %s", want, last)
		}
	}
}

// written writes services with their endpoints, in the order of their names.
func written(s intent.Snapshot) string {
	var all []string
	for _, svc := range intent.ByPrecedence(s.Services) {
		var eps []string
		for _, e := range svc.Endpoints {
			eps = append(eps, e.Workload.UID)
		}
		all = append(all, svc.Name+"="+strings.Join(eps, ","))
	}
	return strings.Join(all, " ")
}

// reply returns the answer to the next response of istiod.
func (w *watched) reply() adstest.Request {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), long)
	defer cancel()
	r, next, err := w.server.Await(ctx, w.next, func(r adstest.Request) bool { return r.ResponseNonce != "" })
	must(w, err)
	w.next = next
	return r
}

// replies skips the answers to the first two responses.
func (w *watched) begin() {
	w.Helper()
	for range 2 {
		if r := w.reply(); r.ErrorDetail != nil {
			w.Fatalf("the first answers are refused: %v", r)
		}
	}
}

// refused returns what the next reply refuses, "" when it is an ACK.
func (w *watched) refused() string {
	w.Helper()
	return w.reply().GetErrorDetail().GetMessage()
}

func keyOf(name string) string { return "demo/" + name + ".demo.svc.cluster.local" }

// svc is a Kubernetes service of namespace demo with port 80.
func svc(name, ip string, change ...func(*workloadapi.Service)) *discovery.Resource {
	s := &workloadapi.Service{
		Name: name, Namespace: "demo", Hostname: name + ".demo.svc.cluster.local",
		Ports: []*workloadapi.Port{{ServicePort: 80, TargetPort: 8080}},
	}
	if ip != "" {
		s.Addresses = []*workloadapi.NetworkAddress{{Address: bytesOf(ip)}}
	}
	for _, f := range change {
		f(s)
	}
	return adstest.Resource(s.Namespace+"/"+s.Hostname, ofService(s))
}

// wl is a pod behind services.
func wl(uid, ip string, services []string, change ...func(*workloadapi.Workload)) *discovery.Resource {
	var keys []string
	for _, s := range services {
		keys = append(keys, keyOf(s))
	}
	w := pod(uid, ip, keys...)
	for _, f := range change {
		f(w)
	}
	return adstest.Resource(uid, ofWorkload(w))
}

func authz(name string, change func(*security.Authorization)) *discovery.Resource {
	a := &security.Authorization{Name: name, Namespace: "demo", Scope: security.Scope_WORKLOAD_SELECTOR}
	if change != nil {
		change(a)
	}
	return adstest.Resource(a.Namespace+"/"+a.Name, a)
}

func list1(r ...*discovery.Resource) []*discovery.Resource { return r }

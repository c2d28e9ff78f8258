package xds

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/source/xds/names"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

func called(name string) func(*workloadapi.Workload) {
	return func(w *workloadapi.Workload) { w.Hostname = name }
}

func answers(err error, addrs ...string) names.Answer {
	a := names.Answer{Err: err}
	for _, s := range addrs {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(s))
	}
	return a
}

// A workload that is known by name has the addresses of the last answer.
func TestHostnames(t *testing.T) {
	m := given(t, Config{}, svc("web", "10.9.0.1"), wl("db", "", []string{"web"}, called("db.example.com")))
	step := func(a names.Answer, want, unused string) {
		t.Helper()
		m.resolved("db.example.com", a)
		must(t, m.snapshot().Validate())
		wantGoes(t, m, map[string]string{"10.9.0.1:80": want})
		if got := strings.Join(m.unused(), "\n"); got != unused {
			t.Errorf("status says %q, want %q", got, unused)
		}
	}
	if got := m.unused(); len(got) != 1 || got[0] != "hostname db.example.com: not resolved yet" || !m.pending() {
		t.Errorf("before any answer: %q", got)
	}
	step(answers(errors.New("SERVFAIL")), "refuse-no-endpoint", "hostname db.example.com: SERVFAIL; its workloads are never chosen")
	step(answers(nil, "10.2.0.1", "10.2.0.2"), "redirect 10.2.0.1:8080 10.2.0.2:8080", "")
	step(answers(errors.New("SERVFAIL"), "10.2.0.1"), "redirect 10.2.0.1:8080", "hostname db.example.com: SERVFAIL; the last answer stays in force")
	step(answers(nil, "127.0.0.1", "10.2.0.3"), "redirect 10.2.0.3:8080", "hostname db.example.com: address 127.0.0.1 is not used: loopback; the last answer stays in force")
	m.resolved("nobody.example.com", answers(nil, "10.2.0.9"))
	m.give(t, addressType, list1(wl("db", "10.3.0.1", []string{"web"}, called("db.example.com")))) // its own address goes first
	wantGoes(t, m, map[string]string{"10.9.0.1:80": "redirect 10.3.0.1:8080"})
	if len(m.names) != 0 || m.pending() {
		t.Errorf("names are %v", m.names)
	}
}

// The whole way: names that nobody answers hold up the first state for a moment only.
func TestHostnamesDoNotBlock(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("db", "", []string{"web"}, called("db.example.com")))
	u := w.state("web=db")
	if !strings.Contains(strings.Join(u.Unused, "\n"), "hostname db.example.com: no name server is configured") {
		t.Errorf("status says %q", u.Unused)
	}
	w = watch(t, adstest.Options{}, func(c *Config) {
		c.Names.Servers = []string{"127.0.0.1:1"} // nobody is there
		c.NameWait = 1
	}, svc("web", "10.9.0.1"), wl("db", "", []string{"web"}, called("db.example.com")))
	w.state("web=db")
	w.server.Change(addressType, list1(svc("also", "10.9.0.2")))
	w.state("also= web=db")
}

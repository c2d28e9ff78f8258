package kubeproxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// mustNew returns a Proxy in a namespace of its own.
func mustNew(tb testing.TB) (*Proxy, *os.File) {
	tb.Helper()
	kernel.Require(tb, kernel.Root)
	ns, err := kernel.NewNetns()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ns.Close() })
	p, err := New(ns, true)
	if errors.Is(err, ErrNoIptables) {
		tb.Skipf("NOT RUN: %v", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return p, ns
}

// rules returns what the namespace has, without counters.
func rules(tb testing.TB, ns *os.File, save string) string {
	tb.Helper()
	path, err := find(save)
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(path)
	cmd.Stdout = &out
	err = kernel.InNetns(ns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		tb.Fatalf("%s: %v", save, err)
	}
	var kept []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func TestApplyReplaces(t *testing.T) {
	p, ns := mustNew(t)
	shop, cart := service("shop", "10.96.0.1", "fd96::1", 1, 1), service("cart", "10.96.0.2", "fd96::2", 1)
	steps := []intent.Snapshot{snapshot(shop), snapshot(shop, cart), snapshot(cart), snapshot()}
	for i, s := range steps {
		if err := p.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		for _, save := range []string{"iptables-save", "ip6tables-save"} {
			got := rules(t, ns, save)
			// What is there must be what an empty namespace would get.
			fresh, freshNS := mustNew(t)
			if err := fresh.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if want := rules(t, freshNS, save); got != want {
				t.Errorf("step %d, %s:\n%s\nwant\n%s", i, save, got, want)
			}
			if n, want := strings.Count(got, "-j DNAT"), endpoints(s); n != want {
				t.Errorf("step %d, %s: %d DNAT rules, want %d", i, save, n, want)
			}
		}
	}
}

func endpoints(s intent.Snapshot) int {
	n := 0
	for _, svc := range s.Services {
		n += len(svc.Endpoints)
	}
	return n
}

// many makes n services with two endpoints each.
func many(n int) intent.Snapshot {
	var s intent.Snapshot
	for i := range n {
		hi, lo := byte(i>>8), byte(i)
		s.Services = append(s.Services, service(fmt.Sprintf("svc-%d", i),
			netip.AddrFrom4([4]byte{10, 97, hi, lo}).String(),
			netip.AddrFrom16([16]byte{0xfd, 0x96, 13: 1, 14: hi, 15: lo}).String(), 1, 1))
	}
	return s
}

func TestThousandServices(t *testing.T) {
	p, ns := mustNew(t)
	start := time.Now()
	if err := p.Apply(t.Context(), many(1000)); err != nil {
		t.Fatal(err)
	}
	t.Logf("1000 services written in %v", time.Since(start))
	if n := strings.Count(rules(t, ns, "iptables-save"), "-j DNAT"); n != 2000 {
		t.Errorf("%d DNAT rules, want 2000", n)
	}
	start = time.Now()
	if err := p.Apply(t.Context(), many(1)); err != nil {
		t.Fatal(err)
	}
	t.Logf("999 removed in %v", time.Since(start))
	if n := strings.Count(rules(t, ns, "iptables-save"), "KUBE-SVC-"); n != 3 {
		t.Errorf("%d mentions of service chains, want those of one service", n)
	}
}

func TestBadRulesAreNamed(t *testing.T) {
	p, _ := mustNew(t)
	err := p.families[0].write(t.Context(), p.ns, []byte("*nat\n-A NO-SUCH-CHAIN -j ACCEPT\nCOMMIT\n"))
	if err == nil || !strings.Contains(err.Error(), "iptables-restore") {
		t.Errorf("got %v, want an error that names the program", err)
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	_, err := find("iptables-that-nobody-has")
	if !errors.Is(err, ErrNoIptables) || !strings.Contains(err.Error(), "package iptables") {
		t.Errorf("got %v, want the name of the package", err)
	}
}

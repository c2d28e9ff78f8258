package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// What cannot be used is refused by its name alone: the rest of the same answer is
// taken, and the last good one of the refused stays.
func TestFaultRefused(t *testing.T) {
	for name, c := range map[string]struct {
		typeURL string
		bad     *discovery.Resource
		want    string // of the NACK; empty: an ACK
	}{
		"malformed":    {addressType, adstest.Raw("a", &anypb.Any{TypeUrl: addressType, Value: []byte{0xff, 0xff}}), "a: decode"},
		"another type": {addressType, adstest.Raw("a", &anypb.Any{TypeUrl: authorizationType}), "a: decode"},
		"no body":      {addressType, &discovery.Resource{Name: "a", Version: "2"}, "a: no body"},
		"another name": {addressType, adstest.Resource("a", ofWorkload(pod("b", "10.1.0.9"))), "a: the workload in it has another uid: b"},
		"unknown status": {addressType, wl("a", "10.1.0.9", []string{"web"}, func(w *workloadapi.Workload) { w.Status = 7 }),
			"a: status 7 is not known"},
		"unknown mode": {addressType, svc("web", "10.9.0.9", func(s *workloadapi.Service) {
			s.LoadBalancing = &workloadapi.LoadBalancing{Mode: 7}
		}), "demo/web.demo.svc.cluster.local: load balancing mode 7 is not known"},
		"unknown action": {authorizationType, authz("p", func(a *security.Authorization) { a.Action = 7 }),
			"demo/p: policy action 7 is not known"},
		"unknown scope": {authorizationType, authz("p", func(a *security.Authorization) { a.Scope = 7 }),
			"demo/p: policy scope 7 is not known"},
		"unknown protocol, which nobody needs here": {addressType, wl("a", "10.1.0.1", []string{"web"}, func(w *workloadapi.Workload) {
			w.TunnelProtocol = 7
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}))
			w.begin()
			w.state("web=a")
			good := svc("also", "10.9.0.2")
			if c.typeURL == authorizationType {
				good = authz("also", nil)
			}
			w.server.Change(c.typeURL, these(c.bad, good))
			if got := w.refused(); !strings.HasPrefix(got, c.want) || strings.Contains(got, "also") || (got == "") != (c.want == "") {
				t.Errorf("refused: %q, want %q", got, c.want)
			}
			want := "also= web=a"
			if c.typeURL == authorizationType {
				want = "web=a"
			}
			u := w.state(want)
			if s := find(t, u.Snapshot, "web"); s.Addresses[0].String() != "10.9.0.1" || s.Endpoints[0].Workload.Addresses[0].String() != "10.1.0.1" {
				t.Errorf("the last good one did not stay: %+v", s)
			}
			named := strings.Contains(strings.Join(u.Unused, "\n"), c.bad.Name+": refused: ")
			if named != (c.want != "") {
				t.Errorf("status says %q", u.Unused)
			}
			// It is sent again, and right now.
			w.server.Change(addressType, these(svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"})))
			if got := w.refused(); got != "" {
				t.Errorf("refused: %q", got)
			}
		})
	}
}

// What was refused is asked for again by the next stream, and all else is not.
func TestFaultRefusedIsAskedForAgain(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}))
	w.begin()
	w.server.Change(addressType, these(wl("a", "127.0.0.1", nil), wl("b", "10.1.0.2", []string{"web"})))
	if got := w.refused(); got != "a: workload a: address 127.0.0.1: loopback" {
		t.Errorf("refused: %q", got)
	}
	w.server.Break(nil)
	r, _, err := w.server.Await(t.Context(), w.next, func(r adstest.Request) bool { return r.TypeUrl == addressType && r.Stream == 2 })
	must(t, err)
	// Of a the version that is in force is held, which is not the server's.
	if v := r.InitialResourceVersions; len(v) != 3 || v["a"] == "" || v["b"] == "" || v[keyOf("web")] == "" {
		t.Errorf("the second stream says it has %v", v)
	}
	w.next = 0
	for again := 0; again < 2; {
		if w.refused() == "a: workload a: address 127.0.0.1: loopback" {
			again++
		}
	}
}

// Two services of one address: taken, the first has it, and both are named.
func TestFaultDuplicateAddress(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("one", "10.9.0.1"))
	w.begin()
	w.server.Change(addressType, these(svc("two", "10.9.0.1"), wl("a", "10.1.0.1", []string{"two"})))
	if got := w.refused(); got != "" {
		t.Errorf("refused: %q", got)
	}
	u := w.state("one= two=a")
	claims, conflicts := u.Snapshot.Claims()
	for f, c := range claims {
		if c.Service.Name != "one" {
			t.Errorf("%s is %s's", f, c.Service.Name)
		}
	}
	if len(conflicts) != 2 || len(conflicts[0].Services) != 2 {
		t.Errorf("conflicts are %+v", conflicts)
	}
	// A ServiceEntry for a host that is called like a Service is another one, whichever
	// comes first.
	entry := func(host string) *discovery.Resource {
		return adstest.Resource("demo/"+host, ofService(&workloadapi.Service{Name: "x", Namespace: "demo", Hostname: host}))
	}
	w.server.Change(addressType, these(entry("one"), entry("three")))
	if got := w.refused(); got != "" {
		t.Errorf("refused: %q", got)
	}
	w.state("one= one.= three.= two=a")
	w.server.Change(addressType, these(svc("three", "10.9.0.3")), keyOf("one"))
	if got := w.refused(); got != "" {
		t.Errorf("refused: %q", got)
	}
	w.state("one.= three= three.= two=a")
}

// An answer that is larger than the client takes ends the stream and is said so.
func TestFaultOversize(t *testing.T) {
	w := watch(t, adstest.Options{}, func(c *Config) { c.Server.MaxMessage = 64 << 10 }, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}))
	w.begin()
	w.state("web=a")
	big := wl("big", "10.1.0.2", []string{"web"}, func(w *workloadapi.Workload) { w.WorkloadName = strings.Repeat("x", 128<<10) })
	w.server.Change(addressType, these(big))
	u := w.until("an error", func(u Update) bool { return u.Err != nil })
	if istiod.ReasonOf(u.Err) != istiod.TooLarge || !strings.Contains(u.Err.Error(), "larger than this client takes") {
		t.Errorf("it says %v", u.Err)
	}
	w.server.Change(addressType, these(svc("after", "10.9.0.2")), "big")
	w.state("after= web=a")
}

// Removals may come before what they remove, twice, and for what was never there.
func TestFaultRemovals(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}), wl("b", "10.1.0.2", []string{"web"}))
	w.begin()
	w.state("web=a,b")
	for _, step := range []struct {
		set     []*discovery.Resource
		removed []string
		want    string
	}{
		{nil, []string{"never", "demo/never.demo.svc.cluster.local", ""}, "web=a,b"},
		{nil, []string{"a", "a"}, "web=b"},
		{nil, []string{keyOf("web")}, ""},
		{nil, []string{"b"}, ""},
		{these(wl("b", "10.1.0.2", []string{"web"})), nil, ""},
		{these(svc("web", "10.9.0.1")), []string{keyOf("web")}, "web=b"}, // removed and set in one: set
		{these(wl("b", "10.1.0.3", nil)), []string{"b", "a"}, "web="},
	} {
		w.server.Send(&discovery.DeltaDiscoveryResponse{TypeUrl: addressType, Resources: step.set, RemovedResources: step.removed})
		if got := w.refused(); got != "" {
			t.Errorf("%v: refused: %q", step, got)
		}
		w.state(step.want)
	}
}

// A stream that breaks after each answer: nothing is lost, and each new stream says
// exactly what is held.
func TestFaultStreamsBreak(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"))
	w.begin()
	want := "web="
	for i := range 20 {
		w.server.Change(addressType, these(wl(fmt.Sprintf("w%02d", i), fmt.Sprintf("10.1.0.%d", i+1), []string{"web"})))
		want += map[bool]string{true: "", false: ","}[i == 0] + fmt.Sprintf("w%02d", i)
		w.state(want)
		before, _ := w.server.Streams()
		w.server.Break(map[bool]error{true: nil, false: status.Error(codes.Unavailable, "going away")}[i%2 == 0])
		r, _, err := w.server.Await(t.Context(), 0, func(r adstest.Request) bool { return r.Stream == before+1 && r.TypeUrl == addressType })
		must(t, err)
		if n := len(r.InitialResourceVersions); n != i+2 {
			t.Errorf("stream %d says that it has %d resources, want %d", before+1, n, i+2)
		}
	}
}

// istiod is away for a while and comes back with another mesh.
func TestFaultRestart(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}), wl("b", "10.1.0.2", []string{"web"}))
	w.begin()
	before := w.state("web=a,b")
	w.server.Stop()
	u := w.until("an error", func(u Update) bool { return u.Err != nil && istiod.ReasonOf(u.Err) == istiod.Unreachable })
	if u.Snapshot.Services != nil {
		t.Errorf("an update with an error has a state: %+v", u)
	}
	w.server.Change(addressType, these(wl("c", "10.1.0.3", []string{"web"}), svc("new", "10.9.0.2")), "a")
	must(t, w.server.Resume())
	after := w.state("new= web=b,c")
	if find(t, before.Snapshot, "web").Endpoints[1].Workload != find(t, after.Snapshot, "web").Endpoints[0].Workload {
		t.Error("what has not changed is another value")
	}
}

// jwt is a token with claims; nobody checks its signature.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".sig"
}

// certificate is a self-signed one for istiod, and a file of it.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{istiod.DefaultServerName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	path := filepath.Join(t.TempDir(), "root.pem")
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}

// istiod refuses the token, then has another certificate: what is known stays, each
// is said in words, and the next good token and roots are used without a restart.
func TestFaultTokenAndRoots(t *testing.T) {
	cert, roots := certificate(t)
	good := jwt(fmt.Sprintf(`{"aud":["istio-ca"],"exp":%d,"sub":"x"}`, time.Now().Add(time.Hour).Unix()))
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte(good), 0o600))
	check := func(md metadata.MD) error {
		if strings.Join(md.Get("authorization"), "") != "Bearer "+good {
			return status.Error(codes.Unauthenticated, "authentication failure")
		}
		return nil
	}
	served := cert
	o := adstest.Options{Check: check, TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &served, nil }}}
	w := watch(t, o, func(c *Config) {
		c.Server.Plaintext, c.Server.Roots, c.Server.Token = false, roots, token
	}, svc("web", "10.9.0.1"))
	w.begin()
	w.state("web=")

	says := func(reason istiod.Reason, want string) {
		t.Helper()
		w.until(want, func(u Update) bool {
			return u.Err != nil && istiod.ReasonOf(u.Err) == reason && strings.Contains(u.Err.Error(), want)
		})
	}
	for want, bad := range map[string]string{
		"it expired at 2001-09-09T01:46:40Z":                      jwt(`{"aud":["istio-ca"],"exp":1000000000}`),
		`its audience is "api", istiod wants "istio-ca"`:          jwt(`{"aud":"api","exp":4000000000}`),
		"it is not valid before 2096-10-02":                       jwt(`{"aud":"istio-ca","nbf":4000000000}`),
		"is not a JWT":                                            "nonsense",
		"it is that of system:serviceaccount:a:b, in date and fo": jwt(`{"aud":["istio-ca"],"exp":4000000000,"sub":"system:serviceaccount:a:b"}`),
	} {
		must(t, os.WriteFile(token, []byte(bad), 0o600))
		w.server.Break(nil)
		says(istiod.Unauthenticated, want)
	}
	must(t, os.Remove(token))
	says(istiod.NoToken, "no such file")
	must(t, os.WriteFile(token, []byte(good), 0o600))
	w.server.Change(addressType, these(svc("rotated", "10.9.0.2")))
	w.state("rotated= web=")

	w.server.Stop()
	other, otherRoots := certificate(t)
	served = other
	must(t, w.server.Resume())
	says(istiod.Untrusted, "unknown authority")
	w.server.Change(addressType, nil, keyOf("web"))
	pem, err := os.ReadFile(otherRoots)
	must(t, err)
	must(t, os.WriteFile(roots, pem, 0o600))
	w.state("rotated=")
}

// A connection on which nothing arrives any more is given up, and made anew.
func TestFaultHanging(t *testing.T) {
	s, err := adstest.Start(adstest.Options{})
	must(t, err)
	defer s.Close()
	wire, err := adstest.NewWire(s.Address())
	must(t, err)
	defer wire.Close()
	w := watch(t, adstest.Options{}, func(c *Config) {
		c.Server.Address, c.Server.KeepAlive = wire.Address(), 10*time.Second // the library's least
	})
	w.server = s
	s.Change(addressType, these(svc("web", "10.9.0.1")))
	w.state("web=")
	wire.Freeze()
	s.Change(addressType, these(svc("later", "10.9.0.2")))
	w.until("silence is noticed", func(u Update) bool { return u.Err != nil && istiod.ReasonOf(u.Err) == istiod.Silent })
	wire.Thaw()
	w.state("later= web=")
}

// Who is late gets the newest state, and one only.
func TestFaultSlowConsumer(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"))
	w.begin()
	w.state("web=")
	const changes = 500
	for i := range changes {
		w.server.Change(addressType, these(wl("a", fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), []string{"web"})))
		if got := w.refused(); got != "" {
			t.Fatalf("refused: %q", got)
		}
	}
	u := <-w.updates
	if got := find(t, u.Snapshot, "web").Endpoints[0].Workload.Addresses[0].String(); got != "10.1.1.250" {
		t.Errorf("the next update has %s, want the newest", got)
	}
	select {
	case u := <-w.updates:
		t.Errorf("one more update comes: version %s", u.Version)
	default:
	}
}

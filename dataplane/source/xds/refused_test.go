package xds

import (
	"net/netip"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/adstest"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// What was refused, and is gone at the next stream, is gone here: the last good one,
// and what was said of it.
func TestFaultRefusedAndThenRemoved(t *testing.T) {
	w := watch(t, adstest.Options{}, nil, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}))
	w.begin()
	w.state("web=a")
	w.server.Change(addressType, these(wl("a", "127.0.0.1", nil), wl("never", "127.0.0.1", nil)))
	u := w.until("both are refused", func(u Update) bool { return len(u.Unused) == 2 })
	if written(u.Snapshot) != "web=a" {
		t.Errorf("the last good one did not stay: %s", written(u.Snapshot))
	}
	w.server.Stop()
	w.server.Change(addressType, these(svc("new", "10.9.0.2")), "a", "never")
	must(t, w.server.Resume())
	if u := w.state("new= web="); len(u.Unused) > 0 {
		t.Errorf("status says of what is gone: %q", u.Unused)
	}
}

// A policy that cannot be read counts as one that is to be enforced, until it can be
// read or is gone, also while no stream was open.
func TestFaultUnreadablePolicyIsNoHole(t *testing.T) {
	refusing := func(c *Config) { c.RefuseUnenforced = true }
	w := watch(t, adstest.Options{}, refusing, svc("web", "10.9.0.1"), wl("a", "10.1.0.1", []string{"web"}))
	w.begin()
	goes := func(what, want string) Update {
		t.Helper()
		return w.until(what, func(u Update) bool {
			return u.Err == nil && string(decided(u.Snapshot, "10.9.0.1:80").Exit) == want
		})
	}
	goes("the control", "redirect")
	unknown := func(scope security.Scope) *discovery.Resource {
		return authz("deny", func(a *security.Authorization) { a.Scope, a.Action = scope, security.Action(77) })
	}
	for _, scope := range []security.Scope{security.Scope_GLOBAL, security.Scope_NAMESPACE, security.Scope(77)} {
		w.server.Change(authorizationType, these(unknown(scope)))
		u := goes("an unreadable policy refuses", "refuse-policy")
		if len(u.Policies) != 1 || u.Policies[0].Key() != "demo/deny" {
			t.Errorf("it is not among those that are not enforced: %+v", u.Policies)
		}
		w.server.Change(authorizationType, nil, "demo/deny")
		goes("it is gone", "redirect")
	}
	w.server.Change(authorizationType, these(unknown(security.Scope_WORKLOAD_SELECTOR)))
	goes("one that names others", "redirect")
	w.server.Change(authorizationType, these(adstest.Raw("demo/deny", &anypb.Any{TypeUrl: authorizationType, Value: []byte{0xff}})))
	goes("of which nothing can be read", "refuse-policy")
	w.server.Stop()
	w.server.Change(authorizationType, nil, "demo/deny")
	must(t, w.server.Resume())
	if u := goes("it went while no stream was open", "redirect"); len(u.Policies) > 0 {
		t.Errorf("still there: %+v", u.Policies)
	}
}

func decided(s intent.Snapshot, to string) intent.Decision {
	return intent.Decide(s, intent.Caller{Managed: true}, netip.MustParseAddrPort(to), intent.TCP)
}

// A stream that istiod takes, to refuse who asks on it, is no connection.
func TestRefusedTokenIsNoConnection(t *testing.T) {
	m := NewMetrics()
	check := func(metadata.MD) error { return status.Error(codes.Unauthenticated, "authentication failure") }
	w := watch(t, adstest.Options{Check: check}, func(c *Config) { c.Metrics = m })
	for range 5 {
		w.until("it is refused", func(u Update) bool { return istiod.ReasonOf(u.Err) == istiod.Unauthenticated })
		if gathered(t, m)["duomesh_xds_connected"] != 0 {
			t.Fatal("the agent calls itself connected")
		}
	}
	w.server.Check(nil)
	w.until("the control", func(u Update) bool { return u.Err == nil })
	if gathered(t, m)["duomesh_xds_connected"] != 1 {
		t.Error("the agent does not call itself connected")
	}
}

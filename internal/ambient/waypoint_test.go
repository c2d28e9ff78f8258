package ambient

import (
	"net/netip"
	"strings"
	"testing"

	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

func tunnel(t *testing.T) Tunnel {
	t.Helper()
	a, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	own, err := a.issue(Identity(Namespace, "waypoint"))
	if err != nil {
		t.Fatal(err)
	}
	return Tunnel{
		Own: own, Service: netip.MustParseAddrPort("10.96.0.1:80"), Server: netip.MustParseAddrPort("10.2.0.21:8080"),
		Peer: Identity(Namespace, "server"), Filters: []*listener.Filter{{Name: "chain"}},
	}
}

// TestTunnelIsValid to the rules that Envoy's own messages declare, and says what it
// must: mutual TLS on either side, and who may be there.
func TestTunnelIsValid(t *testing.T) {
	tun := tunnel(t)
	listeners, err := tun.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	clusters, err := tun.Clusters()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, l := range listeners {
		if err := l.ValidateAll(); err != nil {
			t.Errorf("listener %s: %v", l.Name, err)
		}
		text += l.String()
	}
	for _, c := range clusters {
		if err := c.ValidateAll(); err != nil {
			t.Errorf("cluster %s: %v", c.Name, err)
		}
		text += c.String()
	}
	for _, want := range []string{
		"require_client_certificate", "spiffe://cluster.local/ns/default/sa/server", "spiffe://cluster.local/", "TLSv1_3",
		"10.96.0.1:80", "10.2.0.21:8080", "port_value:15008", "allow_connect",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not there", want)
		}
	}
	tun.Own.Key = nil
	if _, err := tun.Listeners(); err == nil || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("without a key: %v", err)
	}
}

// TestServicesGoThroughTheWaypoint: it is a workload of its own, and every service
// names it.
func TestServicesGoThroughTheWaypoint(t *testing.T) {
	pod := Pod{Name: "waypoint", Node: "b", ServiceAccount: "waypoint", Address: netip.MustParseAddr("10.2.0.9")}
	got, err := workloads(
		[]Pod{{Name: "server", Node: "b", ServiceAccount: "srv", Address: netip.MustParseAddr("10.2.0.21")}},
		[]Service{{Name: "bench", VIP: netip.MustParseAddr("10.96.0.1"), Port: 80, Target: 8080, Pod: "server"}}, HBONE, &pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"name: waypoint\n", "destination: /10.2.0.9\n", "hboneMtlsPort: 15008\n", "- 10.2.0.9\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	c := config(t, "silent")
	c.Waypoint, c.Protocol = &pod, TCP
	if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), "reached by HBONE alone") {
		t.Errorf("a waypoint without HBONE: %v", err)
	}
}

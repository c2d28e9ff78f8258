package intent_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestValidate(t *testing.T) {
	workloads := func(all ...*intent.Workload) intent.Snapshot { return intent.Snapshot{Workloads: all} }
	service := func(change func(*intent.Service)) intent.Snapshot {
		s := &intent.Service{Namespace: "n", Name: "s"}
		change(s)
		return intent.Snapshot{Services: []*intent.Service{s}}
	}
	one := pod("one", "10.0.0.1")
	for _, c := range []struct {
		name string
		s    intent.Snapshot
		want []string
	}{
		{"uid missing", workloads(&intent.Workload{Namespace: "n", Name: "w"}), []string{"workload n/w: uid is missing"}},
		{"workload twice", workloads(one, one), []string{"workload one: declared twice"}},
		{"workload's addresses", workloads(&intent.Workload{UID: "w", Addresses: append(addrs(
			"127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "fd00::1%x", "224.0.0.1", "ff02::1", "::ffff:10.0.0.1"), netip.Addr{})},
		), []string{
			"workload w: address 127.0.0.1: loopback", "workload w: address ::1: loopback",
			"workload w: address 0.0.0.0: unspecified", "workload w: address ::: unspecified",
			"workload w: address 169.254.1.1: link-local", "workload w: address fe80::1: link-local",
			"workload w: address fd00::1%x: has a scope",
			"workload w: address 224.0.0.1: multicast", "workload w: address ff02::1: multicast",
			"workload w: address ::ffff:10.0.0.1: write a v4-mapped address as IPv4",
			"workload w: address invalid IP: not an address",
		}},
		{"workload's waypoint", workloads(&intent.Workload{UID: "w", Waypoint: &intent.Waypoint{
			Name: "y", Codec: "hbone", Endpoints: endpoints(one, one),
		}}), []string{
			"workload w: waypoint y: port is missing", `workload w: waypoint y: codec "hbone" is unknown`,
			"workload w: waypoint y: endpoint one: declared twice",
		}},
		{"service without name", service(func(s *intent.Service) { s.Name = "" }), []string{"service n/: name is missing"}},
		{"service twice", intent.Snapshot{Services: []*intent.Service{{Name: "s"}, {Name: "s"}}}, []string{"service /s: declared twice"}},
		{"service's address", service(func(s *intent.Service) { s.Addresses = addrs("::1") }), []string{"service n/s: address ::1: loopback"}},
		{"ports", service(func(s *intent.Service) {
			s.Ports = []intent.Port{tcp(80, 1), udp(80, 1), tcp(80, 2), tcp(0, 1), {Port: 7, Protocol: 132}}
		}), []string{
			"service n/s: port 80/TCP: declared twice", "service n/s: port 0 cannot be declared",
			"service n/s: port 7: protocol 132 is neither TCP nor UDP",
		}},
		{"endpoints", service(func(s *intent.Service) {
			s.Endpoints = append(endpoints(one, nil, one), intent.Endpoint{Workload: pod("two"), Ports: map[uint16]uint16{80: 0}},
				intent.Endpoint{Workload: pod("three"), Ports: map[uint16]uint16{0: 80}})
		}), []string{
			"service n/s: an endpoint names no workload", "service n/s: endpoint one: declared twice",
			"service n/s: endpoint two: port 0 in its own ports", "service n/s: endpoint three: port 0 in its own ports",
		}},
		{"balance", service(func(s *intent.Service) {
			s.Balance = intent.Balance{Mode: "near", Prefer: []intent.Scope{intent.ScopeZone, "rack"}}
		}), []string{`service n/s: balance mode "near" is unknown`, `service n/s: balance scope "rack" is unknown`}},
		{"service's waypoint", service(func(s *intent.Service) { s.Waypoint = &intent.Waypoint{Name: "y", Codec: intent.ProxyV2} }),
			[]string{"service n/s: waypoint y: port is missing"}},
		{"routes", intent.Snapshot{Routes: []*intent.Route{{Service: "n/a"}, {Service: "n/a", Backends: []intent.Backend{{Service: "n/b"}}}}}, []string{
			"route of service n/a: no such service", "route of service n/a: no backend",
			"route of service n/a: no such service", "route of service n/a: backend n/b: no such service",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.s.Validate()
			if err == nil {
				t.Fatal("no error")
			}
			if want := strings.Join(c.want, "\n"); err.Error() != want {
				t.Errorf("got:\n%s\nwant:\n%s", err, want)
			}
		})
	}
}

func TestValidateAcceptsTheDecisionTable(t *testing.T) {
	if err := table().Validate(); err != nil {
		t.Error(err)
	}
}

func TestUnsupported(t *testing.T) {
	got := intent.UnsupportedError{Resource: "service default/fortio", Field: "waypoint"}.Error()
	if want := "service default/fortio: waypoint is not carried out by this build"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

package scenario

import (
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestAddressOf(t *testing.T) {
	for name, want := range map[string]struct {
		pod string
		n   int
	}{
		"v1": {"v1", 1}, "v1/2": {"v1", 2}, "v1/1": {"v1/1", 1}, "v1/02": {"v1/02", 1}, "v1/x": {"v1/x", 1}, "v1/2/3": {"v1/2/3", 1},
	} {
		if pod, n := SplitAddress(name); pod != want.pod || n != want.n {
			t.Errorf("%s is %s, %d", name, pod, n)
		}
	}
}

func TestValidateRefusesSets(t *testing.T) {
	for want, change := range map[string]func(*Scenario){
		"scenario x: pod v1: 4 addresses of each family, at most 3": func(s *Scenario) {
			s.Topology.Nodes[0].Pods[3].Addresses = 4
		},
		`scenario x: pod v1: family "both" is none of IPv4, IPv6, dual`: func(s *Scenario) {
			s.Topology.Nodes[0].Pods[3].Family = "both"
		},
		"scenario x: unready pod ghost is not in the topology": func(s *Scenario) { s.Objects.Unready = []string{"ghost"} },
		`scenario x: service fortio: balance: mode "near" is none of strict, failover, passthrough`: func(s *Scenario) {
			s.Objects.Services[0].Balance.Mode = "near"
		},
		`scenario x: service fortio: balance: scope "rack" is none of [network region zone subzone node cluster]`: func(s *Scenario) {
			s.Objects.Services[0].Balance = Balance{Mode: intent.Strict, Prefer: []intent.Scope{"rack"}}
		},
		"scenario x: service fortio: balance: prefer goes with strict and failover, and these need it": func(s *Scenario) {
			s.Objects.Services[0].Balance.Mode = intent.Failover
		},
		"scenario x: service fortio: port 80: target 8080 and targetName web: one of the two": func(s *Scenario) {
			s.Objects.Services[0].Ports[0].TargetName = "web"
		},
		"scenario x: service fortio: endpoint v1: it has a target for port 81, which is not declared": func(s *Scenario) {
			s.Objects.Services[0].Endpoints[0].Ports = map[uint16]uint16{81: 1}
		},
		"scenario x: phase 1: load 1: target service fortio is declared nowhere, or headless": func(s *Scenario) {
			s.Objects.Services[0].Headless = true
		},
		"scenario x: phase 1: load 1: server pod v1/2 is not in the topology": func(s *Scenario) {
			s.Phases[0].Loads[0].Want.Split = map[string]float64{"v1/2": 1}
		},
		"scenario x: phase 1: load 1: target pod v1/2 is not in the topology": func(s *Scenario) {
			s.Phases[0].Loads[0].To = Target{Pod: "v1/2", Port: 80, Family: IPv4}
		},
	} {
		s := split("x", "x", IPv4)
		change(&s)
		if err := s.Validate(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

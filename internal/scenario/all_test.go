package scenario

import (
	"math"
	"strings"
	"testing"
)

func TestAllAreValid(t *testing.T) {
	names := map[string]bool{}
	for _, s := range All() {
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		if names[s.Name] || s.Summary == "" {
			t.Errorf("%s: named twice, or without a summary", s.Name)
		}
		names[s.Name] = true
		if got, ok := Find(s.Name); !ok || got.Summary != s.Summary {
			t.Errorf("%s: not found by its name", s.Name)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	break1 := func(f func(*Scenario)) Scenario {
		s := split("x", "x", IPv4)
		f(&s)
		return s
	}
	load := func(s *Scenario) *Load { return &s.Phases[0].Loads[0] }
	cases := map[string]func(*Scenario){
		"scenario x: no phase": func(s *Scenario) { s.Phases = nil },
		"scenario x: phase 1: load 1: client pod ghost is not in the topology": func(s *Scenario) {
			load(s).From = []string{"ghost"}
		},
		"scenario x: phase 1: load 1: the shares sum to 0.5, not 1": func(s *Scenario) {
			load(s).Want.Split = map[string]float64{"v1": .5}
		},
		"scenario x: phase 1: load 1: share of v1: 100 connections, a share needs at least 4000": func(s *Scenario) {
			load(s).Connections, load(s).Want.Split = 100, map[string]float64{"v1": .5, "v2": .5}
		},
		"scenario x: phase 1: load 1: the target must be one service or one pod": func(s *Scenario) {
			load(s).To.Pod = "v1"
		},
		`scenario x: phase 1: load 1: via "magic" is none of none, socket, dnat, waypoint`: func(s *Scenario) { load(s).Want.Via = "magic" },
		"scenario x: phase 1: load 1: via waypoint: waypoint says which": func(s *Scenario) {
			load(s).Want.Via = ViaWaypoint
		},
		"scenario x: phase 1: load 1: via proxy is not judged yet: no rule says what to expect of it": func(s *Scenario) {
			load(s).Want.Via = ViaProxy
		},
		"scenario x: phase 1: load 1: HTTP is judged behind a waypoint only: via must be waypoint": func(s *Scenario) {
			load(s).Requests = 1
		},
		"scenario x: service fortio: waypoint w is declared nowhere": func(s *Scenario) {
			s.Objects.Services[0].Waypoint = "w"
		},
		"scenario x: service fortio: routes without a waypoint: nobody carries them out": func(s *Scenario) {
			s.Objects.Services[0].Routes = []Route{{Backends: []Backend{{Service: "fortio", Port: 80, Weight: 1}}}}
		},
		"scenario x: phase 1: load 1: share of v1: NaN is not between 0 and 1": func(s *Scenario) {
			load(s).Want.Split = map[string]float64{"v1": math.NaN()}
		},
		"scenario x: phase 1: load 1: 2000000 connections, at most 1000000": func(s *Scenario) {
			load(s).Connections = 2_000_000
		},
		"scenario x: phase 1: load 1: client pod client is named twice": func(s *Scenario) {
			load(s).From = []string{"client", "client"}
		},
		"scenario x: phase 1: load 1: then without anything during the phase": func(s *Scenario) {
			load(s).Then = &load(s).Want
		},
		"scenario x: phase 1: load 1: datagrams and unconnected sockets are for targets with protocol UDP": func(s *Scenario) {
			load(s).Unconnected = true
		},
		"scenario x: phase 1: load 1: 1001 datagrams of each socket: want 1 to 1000": func(s *Scenario) {
			load(s).To.Protocol, load(s).Datagrams = UDP, 1001
		},
		"scenario x: phase 1: load 1: outcome refused-by-peer: an unconnected UDP socket is not told": func(s *Scenario) {
			load(s).To.Protocol, load(s).Unconnected, load(s).Want = UDP, true, Want{Outcome: RefusedByPeer}
		},
		`scenario x: phase 1: load 1: target: protocol "SCTP" is none of TCP, UDP`: func(s *Scenario) {
			load(s).To.Protocol = "SCTP"
		},
		`scenario x: service fortio: port 80: protocol "udp" is none of TCP, UDP`: func(s *Scenario) {
			s.Objects.Services[0].Ports[0].Protocol = "udp"
		},
		"scenario x: pod v1 is declared twice": func(s *Scenario) {
			s.Topology.Nodes[1].Pods[0].Name = "v1"
		},
	}
	for want, f := range cases {
		err := break1(f).Validate()
		if err == nil || strings.Split(err.Error(), "\n")[0] != want { // what follows from it comes after it
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

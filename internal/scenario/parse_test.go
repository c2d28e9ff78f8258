package scenario

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = "../../samples/scenarios/canary.yaml"

func TestLoadFileSample(t *testing.T) {
	s, err := LoadFile(t.Context(), sample)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Phases) != 2 || len(s.Phases[1].Before) != 1 {
		t.Fatalf("phases read as %+v", s.Phases)
	}
	want := Objects{Services: []Service{{
		Name: "cart", Family: IPv4, Ports: []Port{{Port: 80, Target: 8080}},
		Endpoints: []Endpoint{{Pod: "cart-v2", Weight: 1}},
	}}}
	got := s.Phases[1].Before[0].(Apply).Objects
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	const split = "cart-v1: 0.9, cart-v2: 0.1}"
	cases := []struct{ old, new, want string }{
		{"managed: true", "manged: true", "bad.yaml:10:24: topology.nodes[0].pods[0].manged is not a key of this form"},
		{"managed: true", "managed: yes", `bad.yaml:10:33: topology.nodes[0].pods[0].managed must be true or false, it is "yes"`},
		{"weight: 90", "weight: ninety", `bad.yaml:20:42: objects.services[0].endpoints[0].weight must be a decimal number from 0 to 4294967295, it is "ninety"`},
		{"weight: 90", "weight: 0.9", "bad.yaml:20:42: objects.services[0].endpoints[0].weight must be a decimal number from 0 to 4294967295, it is 0.9"},
		{"port: 80,", "port: 80.0,", "must be a decimal number from 0 to 65535, it is 80.0"},
		{"port: 80,", "port: 1e2,", "must be a decimal number from 0 to 65535, it is \"1e2\""},
		{"port: 80,", "port: 010,", `must be a decimal number from 0 to 65535, it is 010`},
		{"connections: 4000", "connections: 4000.9", "bad.yaml:25:22: phases[0].loads[0].connections must be a decimal number from 0 to 2147483647, it is 4000.9"},
		{"connections: 4000", "connections: 4000\n        workers: -1", "workers must be a decimal number from 0 to 2147483647, it is -1"},
		{"cart-v1: 0.9,", "cart-v1: 9e-1,", "split.cart-v1 must be a decimal number such as 0.9, it is \"9e-1\""},
		{"      - apply:", "      - apply:\n      - apply:", "before[0].apply must be a mapping, it is empty"},
		{"phases:", "phases: &p", "phases must be a list, it is an anchor, which this form does not have"},
		{"phases:", "---\nphases:", "bad.yaml:22:1: a second document begins, a file holds one"},
		{"connections: 4000", "connections: 40", "bad.yaml:26:78: phase 1: load 1: share of cart-v1: 40 connections, a share needs at least 4000"},
		{"name: canary/tcp/90-10", "name: ''", "bad.yaml:3:7: name is missing"},
		{"      - apply:", "      - enrol: shop\n        apply:", "bad.yaml:28:9: an action has exactly one key of apply"},
		{"service: cart, port: 80", "pod: ghost, port: 80", "bad.yaml:24:19: phase 1: load 1: target pod ghost is not in the topology"},
		{"[shop]", "[shop, nobody]", "bad.yaml:23:22: phase 1: load 1: client pod nobody is not in the topology"},
		{"outcome: connected", "outcome: ok", `bad.yaml:26:25: phase 1: load 1: outcome "ok" is none of connected, refused-by-mesh, refused-by-peer`},
		{split, "cart-v1: 0.9, cart-v2: 0.2}", "bad.yaml:26:68: phase 1: load 1: the shares sum to 1.1, not 1"},
		{"family: IPv4", "family: IPv5", `bad.yaml:18:15: service cart: family "IPv5" is none of`},
		{"summary:", "version: 1\nnodes: []\nsummary:", "bad.yaml: this is a topology, not a scenario"},
	}
	for _, c := range cases {
		bad := strings.Replace(string(good), c.old, c.new, 1)
		if bad == string(good) {
			t.Fatalf("%q is not in the sample", c.old)
		}
		_, err := parse("bad.yaml", []byte(bad))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bad.yaml") {
			t.Errorf("%s: got %v, want %s", c.new, err, c.want)
		}
	}
}

func TestParseSaysAllThatIsWrong(t *testing.T) {
	good, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.ReplaceAll(string(good), "outcome: connected", "outcome: ok")
	_, err = parse("bad.yaml", []byte(strings.ReplaceAll(bad, "mesh: duomesh", "mesh: istio")))
	for _, want := range []string{"bad.yaml:6:9: mesh", "bad.yaml:26:25: phase 1: load 1", "phase 2: load 1: outcome"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestParseGivesWeights: what says no weight has 1, as in a topology file; 0 is never.
func TestParseGivesWeights(t *testing.T) {
	good, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(good), "{pod: cart-v1, weight: 90}, {pod: cart-v2, weight: 10}", "{pod: cart-v1}, {pod: cart-v2, weight: 0}", 1)
	s, err := parse("weights.yaml", []byte(text))
	if text == string(good) || err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint32{1, 0} {
		if e := s.Objects.Services[0].Endpoints[i]; e.Weight != want {
			t.Errorf("%s has weight %d, want %d", e.Pod, e.Weight, want)
		}
	}
}

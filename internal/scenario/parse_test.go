package scenario

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = "../../samples/scenarios/canary.yaml"

func TestLoadFileSample(t *testing.T) {
	s, err := LoadFile(sample)
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
	cases := []struct{ old, new, want string }{
		{"managed: true", "manged: true", `[10:24] unknown field "manged"`},
		{"weight: 90", "weight: ninety", "[20:42] cannot unmarshal"},
		{"connections: 4000", "connections: 40", "a share needs at least 4000"},
		{"name: canary/tcp/90-10", "name: ''", "name is missing"},
		{"      - apply:", "      - enrol: shop\n        apply:", "exactly one of apply"},
		{"service: cart, port: 80", "pod: ghost, port: 80", "target pod ghost is not in the topology"},
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

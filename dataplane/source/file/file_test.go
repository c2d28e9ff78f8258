package file

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// sameValues compares Snapshots by value; an empty list is as good as none.
var sameValues = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})}

func mustParse(tb testing.TB, text string) intent.Snapshot {
	tb.Helper()
	s, err := Parse("x.yaml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// yamlBlocks returns the blocks of a Markdown text that are marked as yaml.
func yamlBlocks(text string) []string {
	var blocks []string
	for _, part := range strings.Split(text, "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	return blocks
}

func repository(tb testing.TB, name string) string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

func TestDocumentedExample(t *testing.T) {
	blocks := yamlBlocks(repository(t, "docs/intent-yaml.md"))
	if len(blocks) != 1 {
		t.Fatalf("docs/intent-yaml.md has %d yaml blocks, want 1", len(blocks))
	}
	if diff := cmp.Diff(exampleSnapshot(), mustParse(t, blocks[0]), sameValues); diff != "" {
		t.Errorf("example in docs/intent-yaml.md (-want +got):\n%s", diff)
	}
}

// exampleSnapshot is what docs/intent-yaml.md's example says, by hand.
func exampleSnapshot() intent.Snapshot {
	v1 := &intent.Workload{
		UID: "default/fortio-v1", Name: "fortio-v1", Namespace: "default", Weight: 90,
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.10"), netip.MustParseAddr("fd00:244:1::10")},
		Node:      "node-a", Network: "network-1", Cluster: "cluster-1",
		Locality: intent.Locality{Region: "north", Zone: "north-1", Subzone: "rack-7"},
	}
	proxy := &intent.Workload{
		UID: "default/waypoint-1", Name: "waypoint-1", Namespace: "default", Weight: 1, Network: "network-1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.20")}, Gateway: true,
	}
	way := &intent.Waypoint{
		Name: "default/waypoint", Codec: intent.OriginalDst, Port: 15029,
		Endpoints: []intent.Endpoint{{Workload: proxy}},
	}
	v2 := &intent.Workload{
		UID: "Kubernetes//Pod/default/fortio-v2", Name: "fortio-v2", Namespace: "default", Weight: 10,
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.2.10")},
		Node:      "node-b", Network: "network-1", Unhealthy: true, Waypoint: way,
	}
	fortio := &intent.Service{
		Name: "fortio", Namespace: "default", Hostname: "fortio.default.svc.cluster.local", Canonical: true,
		Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")},
		Ports: []intent.Port{
			{Port: 80, Target: 8080, Name: "http", Protocol: intent.TCP},
			{Port: 5353, Protocol: intent.UDP},
		},
		Endpoints: []intent.Endpoint{{Workload: v1, Ports: map[uint16]uint16{5353: 53}}, {Workload: v2}},
		Balance: intent.Balance{
			Mode: intent.Failover, Prefer: []intent.Scope{intent.ScopeRegion, intent.ScopeZone},
		},
	}
	reviews := &intent.Service{
		Name: "reviews", Namespace: "default", Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.11")},
		Ports:     []intent.Port{{Port: 9080, Target: 9080, Protocol: intent.TCP}},
		Endpoints: []intent.Endpoint{{Workload: v1}}, Waypoint: way,
	}
	return intent.Snapshot{
		Services:  []*intent.Service{fortio, reviews},
		Workloads: []*intent.Workload{v1, v2, proxy},
		Policies: []*intent.Policy{{
			Name: "no-outsiders", Namespace: "default", Workloads: []string{"default/fortio-v1"}, Deny: true,
		}},
		Routes: []*intent.Route{{
			Service: "default/reviews", Match: intent.HeaderMatch{Name: "end-user", Exact: "jason"},
			Backends: []intent.Backend{{Service: "default/fortio", Port: 80, Weight: 1}}, Timeout: 2e9,
		}},
	}
}

func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../../samples/intent/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("samples/intent: %d files, %v", len(files), err)
	}
	for _, f := range files {
		if _, err := Load(f); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func TestWaypointPortFollowsCodec(t *testing.T) {
	for codec, want := range map[string]uint16{"original-dst": 15029, "proxy-v2": 15039, "kmesh-tlv": 15019} {
		s := mustParse(t, "version: 1\nwaypoints: [{name: w, codec: "+codec+"}]\n"+
			"workloads: [{name: a, waypoint: w}]\n")
		if got := s.Workloads[0].Waypoint; got.Port != want || string(got.Codec) != codec {
			t.Errorf("codec %s: got %s port %d, want port %d", codec, got.Codec, got.Port, want)
		}
	}
}

func TestWaypointIsOneValue(t *testing.T) {
	s := mustParse(t, "version: 1\nwaypoints: [{name: w}]\nworkloads: [{name: a, waypoint: w}, {name: b, waypoint: w}]\n")
	if s.Workloads[0].Waypoint != s.Workloads[1].Waypoint {
		t.Error("two references to one waypoint gave two values")
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	_, err := Load(path)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("missing file: got %v", err)
	}
	if err := os.WriteFile(path, []byte("version: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(path)
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 1 || e.Problems[0].File != path {
		t.Errorf("wrong version: got %v", err)
	}
}

func TestLoadRefusesEndlessFile(t *testing.T) {
	if _, err := Load("/dev/zero"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

var placed = regexp.MustCompile(`^x\.yaml:[1-9][0-9]*:[1-9][0-9]*: `)

// checkParse is what must hold of any input.
func checkParse(tb testing.TB, data []byte) {
	tb.Helper()
	s, err := Parse("x.yaml", data)
	if err == nil {
		if err := s.Validate(); err != nil {
			tb.Errorf("a parsed Snapshot does not pass Validate: %v", err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) == 0 {
		tb.Fatalf("error is %T: %v", err, err)
	}
	for _, p := range e.Problems {
		if line := p.String(); !placed.MatchString(line) || strings.Contains(line, "\n") {
			tb.Errorf("a problem has no place or several lines: %q", line)
		}
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{"", "a: [", "{", "version: 1\nservices: [{name: a, ports: [{port: 1}, {port: 1}]}]", "- &a [*a]"}
	for _, c := range badInputs {
		seeds = append(seeds, c.text)
	}
	for _, s := range slices.Concat(seeds, yamlBlocks(repository(f, "docs/intent-yaml.md"))) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkParse(t, data) })
}

func TestDeepNestingIsRefusedQuickly(t *testing.T) {
	for _, mark := range []string{"[", "{", "- ", "? ", "a: ["} {
		_, err := Parse("x.yaml", []byte(strings.Repeat(mark, 100_000)))
		if err == nil || !strings.Contains(err.Error(), "nested deeper") {
			t.Errorf("100000 times %q: got %v", mark, err)
		}
	}
}

func TestManyProblemsAreCounted(t *testing.T) {
	text := "version: 1\nworkloads:\n" + strings.Repeat("  - {name: a, weight: -1}\n", strictyaml.ShownProblems)
	_, err := Parse("x.yaml", []byte(text))
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 2*strictyaml.ShownProblems-1 {
		t.Fatalf("got %v", err)
	}
	lines := strings.Split(err.Error(), "\n")
	if want := "and " + strconv.Itoa(strictyaml.ShownProblems-1) + " more problems"; lines[len(lines)-1] != want {
		t.Errorf("last line %q, want %q", lines[len(lines)-1], want)
	}
}

package netsim

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/internal/scenario"
)

func TestSampleFile(t *testing.T) {
	got, err := LoadFile(t.Context(), "../samples/netsim/fortio.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Topology: scenario.Topology{Mesh: scenario.Duomesh, Nodes: []scenario.Node{
			{Name: "a", Pods: []scenario.Pod{{Name: "client", Managed: true}, {Name: "v1", Serve: []uint16{8080}}}},
			{Name: "b", Pods: []scenario.Pod{{Name: "v2", Serve: []uint16{8080}}}},
		}},
		Objects: canary(90, 10),
		Pods:    map[string]Addresses{},
		VIPs:    map[string][]netip.Addr{"fortio": {netip.MustParseAddr("10.96.0.10")}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestBadFiles(t *testing.T) {
	const good = "version: 1\nnodes: [{name: a, pods: [{name: p}]}]\n"
	for text, want := range map[string]string{
		"":                                "f:1:1: the file is empty",
		"version: 2\nnodes: [{name: a}]":  "f:1:10: version must be 1, the one that this build reads, it is 2",
		"nodes: [{name: a}]":              "f:1:1: version is missing: write version: 1",
		"version: 1":                      "f:1:1: a cluster has 1 to 32 nodes, here are 0",
		"version: 1\nnode: []":            "f:2:1: node is not a key of this form, the keys here are mesh, nodes, services, version, waypoints",
		"version: 1\nversion: 1":          "f:2:1: version is given twice, first in line 1",
		"version: [":                      "f:1:10: not YAML: sequence end token ']' not found",
		good + "mesh: istio":              `f:3:7: mesh "istio" is none of duomesh, dnat, none`,
		"version: 1\nnodes: [{name: A}]":  "f:2:16: node name \"A\" is no lower-case DNS label",
		"version: 1\nnodes: [{pods: []}]": "f:2:9: the name of a node is missing",
		"version: 1\nnodes: [{name: a, locality: r1//s1}]":                                            `f:2:29: locality "r1//s1" is no REGION[/ZONE[/SUBZONE]]`,
		"version: 1\nnodes: [{name: a}, {name: a}]":                                                   "f:2:27: node a is declared twice",
		"version: 1\nnodes:\n- name: a\n  pods: [{name: p}, {name: p}]":                               "f:4:28: pod p is declared twice",
		"version: 1\nnodes: [{name: a, pods: [{name: p, serve: [0]}]}]":                               "f:2:44: pod p: port 0 is zero or given twice",
		"version: 1\nnodes: [{name: a, pods: [{name: p, serve: [70000]}]}]":                           "f:2:44: nodes[0].pods[0].serve[0] must be a decimal number from 0 to 65535, it is 70000",
		"version: 1\nnodes: [{name: a, pods: [{name: p, ipv4: x}]}]":                                  `f:2:42: "x" is not an address`,
		"version: 1\nnodes: [{name: a, pods: [{name: p, ipv4: '::1'}]}]":                              "f:2:42: ::1 is not an IPv4 address",
		"version: 1\nnodes: [{name: a, pods: [{name: p, ipv4: 10.96.0.1}]}]":                          "f:2:42: pod p: 10.96.0.1 is in the range of services",
		good + "services: [{name: s}]":                                                                "f:3:12: service s has no port",
		good + "services: [{name: s, ports: [{port: 1}], endpoints: [{pod: q}]}]":                     `f:3:60: service s: no pod "q" is declared`,
		good + "services: [{name: s, ports: [{port: 1}], endpoints: [{pod: p}, {pod: p}]}]":           "f:3:70: service s: endpoint p is declared twice",
		good + "services: [{name: s, ports: [{port: 1}, {port: 1}]}]":                                 "f:3:48: service s: port 1 is declared twice",
		good + "services: [{name: s, ports: [{port: 1}], family: v4}]":                                `f:3:50: family "v4" is none of IPv4, IPv6, dual`,
		good + "services: [{name: s, ports: [{port: 1}], addresses: ['fd96::1']}]":                    "f:3:54: service s is IPv4: fd96::1 is of another family",
		good + "services: [{name: s, ports: [{port: 1}], addresses: [10.1.1.1]}]":                     "f:3:54: service s: 10.1.1.1 belongs to pod p",
		good + "services: [{name: s, ports: [{port: 1}], endpoints: [{pod: p, weight: 5000000000}]}]": "f:3:71: services[0].endpoints[0].weight must be a decimal number from 0 to 4294967295, it is 5000000000",
		good + "---\n" + good:    "f:4:1: a second document begins, a file holds one",
		good + "services: &a []": "f:3:11: services must be a list, it is an anchor, which this form does not have",
		"version: \"1\"":         `f:1:10: version must be a decimal number from 0 to 2147483647, it is "1"`,
		"name: x\nphases: []":    "f: this is a scenario, not a topology: duomesh verify -f runs it",
		good + "services: [{name: s, ports: [{port: 80.0}]}]":                                  "f:3:37: services[0].ports[0].port must be a decimal number from 0 to 65535, it is 80.0",
		good + "services: [{name: s, ports: [{port: 010}]}]":                                   "f:3:37: services[0].ports[0].port must be a decimal number from 0 to 65535, it is 010",
		good + "services: [{name: s, ports: [{port: http}]}]":                                  `f:3:37: services[0].ports[0].port must be a decimal number from 0 to 65535, it is "http"`,
		good + "services: [{name: s, ports: [{port: 1}], endpoints: [{pod: p, weight: 0.9}]}]": "f:3:71: services[0].endpoints[0].weight must be a decimal number from 0 to 4294967295, it is 0.9",
		good + "services: [{name: s, ports: [{port: 1}], endpoints: [{pod: p, weight: 1e2}]}]": `f:3:71: services[0].endpoints[0].weight must be a decimal number from 0 to 4294967295, it is "1e2"`,
		good + "services: [{name: s, ports: [{port: 1}], addresses: [127.0.0.1]}]":             "f:3:54: service s: 127.0.0.1 is not a unicast address",
		good + "services: [{name: s, ports: [{port: 1}], waypoint: w}]":                        "f:3:52: service s: waypoint w is declared nowhere",
		"version: 1\nnodes: [{name: a, pods: [{name: p, managed: yes}]}]":                      `f:2:45: nodes[0].pods[0].managed must be true or false, it is "yes"`,
	} {
		_, err := ParseFile("f", []byte(text))
		if err == nil || err.Error() != want {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}

// The document's example is right, and every key of the form stands in it.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../docs/netsim.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	_, rest, _ := strings.Cut(text, "```yaml\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/netsim.md has no example")
	}
	if _, err := ParseFile("docs/netsim.md", []byte(example)); err != nil {
		t.Error(err)
	}
	for _, form := range []any{fileForm{}, nodeForm{}, podForm{}, serviceForm{}, portForm{}, endpointForm{}, waypointForm{}, routeForm{}, backendForm{}} {
		for f := range reflect.TypeOf(form).Fields() {
			key := f.Tag.Get("yaml")
			if key == "" {
				key = strings.ToLower(f.Name)
			}
			if !regexp.MustCompile("`([a-z]+\\[\\]\\.|\\.)?" + key + "`").MatchString(text) {
				t.Errorf("key %s of %T is not in docs/netsim.md", key, form)
			}
		}
	}
	for _, limit := range []int{MaxNodes, MaxPodsPerNode} {
		if !strings.Contains(text, strconv.Itoa(limit)) {
			t.Errorf("limit %d is not in docs/netsim.md", limit)
		}
	}
}

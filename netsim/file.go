package netsim

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// FileVersion is the version of the topology file that this build reads.
const FileVersion = 1

// File is a topology file: a cluster and its first objects.
type File struct {
	Topology scenario.Topology
	Objects  scenario.Objects
	// Pods and VIPs are the declared addresses, for Config.
	Pods map[string]Addresses
	VIPs map[string][]netip.Addr
}

// The YAML form. Keys are the field names in lower case.
type (
	fileForm struct {
		Version  int
		Mesh     scenario.Mesh
		Nodes    []nodeForm
		Services []serviceForm
		// Waypoints are those of several replicas, or of none.
		Waypoints []waypointForm
	}
	waypointForm struct {
		Name string
		Pods []string
		// Codec is original-dst, also when it is not given, or proxy-v2.
		Codec string
	}
	routeForm struct {
		Header, Exact string
		Backends      []backendForm
		Timeout       time.Duration
	}
	backendForm struct {
		Service string
		Port    uint16
		Weight  *uint32 // 1 when it is not given
	}
	nodeForm struct {
		Name     string
		Locality string // REGION[/ZONE[/SUBZONE]]
		Pods     []podForm
	}
	podForm struct {
		Name  string
		Serve []uint16 // TCP
		// ServeFirst are TCP ports on which the server speaks first.
		ServeFirst []uint16 `yaml:"serveFirst"`
		ServeUDP   []uint16 `yaml:"serveUDP"`
		Managed    bool
		Waypoint   bool
		IPv4       string
		IPv6       string
	}
	serviceForm struct {
		Name      string
		Family    scenario.Family
		Addresses []string
		Ports     []portForm
		Endpoints []endpointForm
		Waypoint  string
		Routes    []routeForm
	}
	portForm struct {
		Port     uint16
		Target   uint16            // the same as Port when it is not given
		Protocol scenario.Protocol // TCP when it is not given
		Name     string            // http…, http2 or grpc is HTTP to a waypoint
	}
	endpointForm struct {
		Pod    string
		Weight *uint32 // 1 when it is not given
	}
)

func (f portForm) protocol() scenario.Protocol {
	if f.Protocol == "" {
		return scenario.TCP
	}
	return f.Protocol
}

// LoadFile reads a topology file; see ParseFile.
func LoadFile(ctx context.Context, path string) (File, error) {
	data, err := strictyaml.Read(ctx, path)
	if err != nil {
		return File{}, fmt.Errorf("read topology: %w", err)
	}
	return ParseFile(path, data)
}

// ParseFile reads a topology from YAML. Errors begin with "name:line:column:"
// and say what is wrong; several are joined, one a line.
func ParseFile(name string, data []byte) (File, error) {
	var form fileForm
	doc := strictyaml.Decode(name, data, &form)
	if doc.Has("phases") || doc.Has("topology") {
		return File{}, fmt.Errorf("%s: this is a scenario, not a topology: duomesh verify -f runs it", name)
	}
	if err := doc.Err(); err != nil {
		return File{}, err
	}
	r := &fileReader{Document: doc, nodes: map[string]bool{}, pods: map[string]bool{}, services: map[string]bool{}}
	f := r.file(form)
	if doc.Err() == nil { // only what is whole has an address plan
		r.plan(f)
	}
	doc.Sort()
	return f, doc.Err()
}

// fileReader turns the form into values and collects what is wrong.
type fileReader struct {
	*strictyaml.Document
	nodes    map[string]bool
	pods     map[string]bool
	services map[string]bool
}

// add notes a problem at the value that path leads to, for example
// "nodes[0].name"; a value that is missing is shown at what holds it.
func (r *fileReader) add(path, format string, args ...any) {
	r.Add(r.Place(path), format, args...)
}

package netsim

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/duomesh/duomesh/internal/scenario"
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
func LoadFile(path string) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("read topology: %w", err)
	}
	return ParseFile(path, data)
}

// ParseFile reads a topology from YAML. Errors begin with "name:line:column:"
// and say what is wrong; several are joined, one a line.
func ParseFile(name string, data []byte) (File, error) {
	doc, err := parser.ParseBytes(data, 0)
	if err != nil {
		return File{}, placed(name, err)
	}
	if len(doc.Docs) == 0 || doc.Docs[0].Body == nil {
		return File{}, fmt.Errorf("%s:1:1: the file is empty", name)
	}
	var form fileForm
	if err := yaml.UnmarshalWithOptions(data, &form, yaml.Strict()); err != nil {
		return File{}, placed(name, err)
	}
	r := &fileReader{name: name, doc: doc, nodes: map[string]bool{}, pods: map[string]bool{}, services: map[string]bool{}}
	f := r.file(form)
	if len(r.problems) == 0 { // only what is whole has an address plan
		r.plan(f)
	}
	return f, errors.Join(r.problems...)
}

// placed writes an error of the YAML library with its place in front.
func placed(name string, err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil {
		pos := at.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", name, pos.Line, pos.Column, at.GetMessage())
	}
	return fmt.Errorf("%s: %w", name, err)
}

// fileReader turns the form into values and collects what is wrong.
type fileReader struct {
	name     string
	doc      *ast.File
	nodes    map[string]bool
	pods     map[string]bool
	services map[string]bool
	problems []error
}

// add notes a problem at the value that path leads to, for example
// "$.nodes[0].name"; a value that is missing is shown at what holds it.
func (r *fileReader) add(path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if pos, ok := r.where(path); ok {
		text = fmt.Sprintf("%s:%d:%d: %s", r.name, pos.line, pos.column, text)
	} else {
		text = r.name + ": " + text
	}
	r.problems = append(r.problems, errors.New(text))
}

type position struct{ line, column int }

func (r *fileReader) where(path string) (position, bool) {
	for path != "" {
		if p, err := yaml.PathString(path); err == nil {
			if n, err := p.FilterFile(r.doc); err == nil && n != nil && n.GetToken() != nil {
				return placeOf(n), true
			}
		}
		path = parent(path)
	}
	return position{}, false
}

// placeOf is where a node begins: a block mapping at its first key.
func placeOf(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	at := n.GetToken().Position
	return position{at.Line, at.Column}
}

// parent cuts the last step off a path.
func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

package file

import (
	"net/netip"
	"time"
)

// version is the version of the form that this package reads and writes.
const version = 1

// defaultNamespace is the namespace of what names none.
const defaultNamespace = "default"

// namedPort is the text that stands for a target port that each endpoint
// names for itself.
const namedPort = "named"

// document is the content of a file: what the keys say, defaults filled in,
// references not yet resolved. The positions are those of the values that a
// later check may complain about; they are zero in a document made from a
// Snapshot.
type document struct {
	Version   int        `yaml:"version"`
	Services  []service  `yaml:"services,omitempty"`
	Workloads []workload `yaml:"workloads,omitempty"`
	Waypoints []waypoint `yaml:"waypoints,omitempty"`
	Policies  []policy   `yaml:"policies,omitempty"`
	Routes    []route    `yaml:"routes,omitempty"`
}

type service struct {
	at         position
	Name       string       `yaml:"name"`
	Namespace  string       `yaml:"namespace"`
	Hostname   string       `yaml:"hostname,omitempty"`
	Addresses  []netip.Addr `yaml:"addresses,omitempty,flow"`
	Ports      []port       `yaml:"ports,omitempty"`
	Endpoints  []endpoint   `yaml:"endpoints,omitempty"`
	waypointAt position
	Waypoint   string   `yaml:"waypoint,omitempty"`
	Balance    *balance `yaml:"balance,omitempty"`
	Canonical  bool     `yaml:"canonical,omitempty"`
}

type port struct {
	at   position
	Port uint16 `yaml:"port"`
	// TargetPort nil means that it is Port; zero that it is named.
	TargetPort *targetPort `yaml:"targetPort,omitempty"`
	Name       string      `yaml:"name,omitempty"`
	Protocol   string      `yaml:"protocol"`
}

// targetPort is written as a number, or as namedPort when zero.
type targetPort uint16

// MarshalYAML implements goccy/go-yaml's InterfaceMarshaler.
func (t targetPort) MarshalYAML() (any, error) {
	if t == 0 {
		return namedPort, nil
	}
	return uint16(t), nil
}

type endpoint struct {
	at       position
	Workload string            `yaml:"workload"`
	Ports    map[uint16]uint16 `yaml:"ports,omitempty,flow"`
	portsAt  map[uint16]position
}

type balance struct {
	at             position
	bad            bool     // something in it could not be read
	Mode           string   `yaml:"mode"`
	Prefer         []string `yaml:"prefer,omitempty,flow"`
	AllowUnhealthy bool     `yaml:"allowUnhealthy,omitempty"`
}

type workload struct {
	at          position
	bad         bool         // something in it could not be read
	UID         string       `yaml:"uid,omitempty"`
	Name        string       `yaml:"name,omitempty"`
	Namespace   string       `yaml:"namespace"`
	Addresses   []netip.Addr `yaml:"addresses,omitempty,flow"`
	Weight      uint32       `yaml:"weight"`
	Node        string       `yaml:"node,omitempty"`
	Network     string       `yaml:"network,omitempty"`
	Cluster     string       `yaml:"cluster,omitempty"`
	Locality    *locality    `yaml:"locality,omitempty"`
	Unhealthy   bool         `yaml:"unhealthy,omitempty"`
	HostNetwork bool         `yaml:"hostNetwork,omitempty"`
	waypointAt  position
	Waypoint    string `yaml:"waypoint,omitempty"`
	Gateway     bool   `yaml:"gateway,omitempty"`
	Hostname    string `yaml:"hostname,omitempty"`
	Unprotected bool   `yaml:"unprotected,omitempty"`
}

type locality struct {
	Region  string `yaml:"region,omitempty"`
	Zone    string `yaml:"zone,omitempty"`
	Subzone string `yaml:"subzone,omitempty"`
}

type waypoint struct {
	at    position
	Name  string `yaml:"name"`
	Codec string `yaml:"codec"`
	// Port zero means the port of the codec.
	Port      uint16     `yaml:"port"`
	Endpoints []endpoint `yaml:"endpoints,omitempty"`
	Balance   *balance   `yaml:"balance,omitempty"`
}

type policy struct {
	at        position
	Name      string     `yaml:"name"`
	Namespace string     `yaml:"namespace"`
	Workloads []string   `yaml:"workloads,omitempty"`
	itemsAt   []position // of Workloads
	Deny      bool       `yaml:"deny,omitempty"`
}

type route struct {
	at       position
	bad      bool          // something in it could not be read
	Service  string        `yaml:"service"`
	Match    *match        `yaml:"match,omitempty"`
	Backends []backend     `yaml:"backends"`
	Timeout  time.Duration `yaml:"timeout,omitempty"`
}

type match struct {
	at     position
	Header string `yaml:"header"`
	Exact  string `yaml:"exact"`
}

type backend struct {
	at      position
	Service string `yaml:"service"`
	Port    uint16 `yaml:"port"`
	Weight  uint32 `yaml:"weight"`
}

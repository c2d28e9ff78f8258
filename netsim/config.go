package netsim

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/internal/scenario"
)

// DefaultRunDir is where clusters keep their run directories.
const DefaultRunDir = "/run/duomesh"

// MaxNodes bounds the nodes of a cluster: every two of them have a link.
const MaxNodes = 32

// MaxPodsPerNode bounds the pods of one node by its address range.
const MaxPodsPerNode = 16000

// Config is how a cluster is opened. The zero value is usable.
type Config struct {
	// ID names the cluster on this machine: a lower-case DNS label. Empty means
	// a random one.
	ID string
	// Name is the same, taken by Reserve before; nil: it is taken by Open.
	Name *Name
	// RunDir holds one directory per cluster; empty means DefaultRunDir.
	RunDir string
	// Exe is the program that is started as traffic client and server; its
	// main function calls traffic.IsChild. Empty means this process's own
	// executable.
	Exe string
	// Pinned gives every node a bpffs instance of its own, where its engine
	// pins programs and maps.
	Pinned bool
	// Agent is the path of a duomesh-agent. With it, each node of a Duomesh
	// cluster runs one as a child of its own, which can be killed and started,
	// and Pinned is implied; without, the engines live in this process.
	Agent string
	// AgentArgs are added to the arguments of each duomesh-agent.
	AgentArgs []string
	// Waypoint is the path of a duomesh-waypoint, and Envoy that of an Envoy: what runs
	// in the pods that are waypoints. Workers is the number of Envoy's workers; 0 means 1.
	Waypoint string
	Envoy    string
	Workers  int
	// WaypointArgs are added to the arguments of each duomesh-waypoint.
	WaypointArgs []string
	// Pods are declared addresses by pod name; the others are allotted.
	Pods map[string]Addresses
	// VIPs are declared virtual addresses by service name, at most one of each
	// family; the others are allotted from 10.96.0.0/12 and fd96::/108.
	VIPs map[string][]netip.Addr
	// ControlPlane drives the agents: what is applied goes through its Kubernetes and
	// its istiod. Nil: what is applied is handed to the nodes.
	ControlPlane *ControlPlane
	// Network is that of the nodes whose place names none.
	Network string
	// Engine tunes the engines of the Duomesh mesh.
	Engine dataplane.Options
	// Log takes what is no error; nil discards it.
	Log *slog.Logger
}

// Addresses are a pod's own; an invalid one is allotted.
type Addresses struct {
	IPv4 netip.Addr
	IPv6 netip.Addr
}

func (c Config) withDefaults() (Config, error) {
	if c.ID == "" {
		id := make([]byte, 4)
		rand.Read(id) // never fails (crypto/rand)
		c.ID = hex.EncodeToString(id)
	}
	if err := CheckID(c.ID); err != nil {
		return c, err
	}
	if c.RunDir == "" {
		c.RunDir = DefaultRunDir
	}
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// CheckID reports what is wrong with the name of a cluster.
func CheckID(id string) error {
	if !label.MatchString(id) {
		return fmt.Errorf("cluster id %q is no lower-case DNS label", id)
	}
	return nil
}

func (c Config) dir() string { return filepath.Join(c.RunDir, c.ID) }

// label is RFC 1123: names become cgroup directories and DNS names.
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// checkTopology reports the first thing in t that cannot be built.
func checkTopology(t scenario.Topology) error {
	if len(t.Nodes) == 0 {
		return fmt.Errorf("topology: no nodes")
	}
	if len(t.Nodes) > MaxNodes {
		return fmt.Errorf("topology: %d nodes, at most %d", len(t.Nodes), MaxNodes)
	}
	switch t.Mesh {
	case scenario.Duomesh, scenario.DNAT, scenario.NoMesh, "":
	default:
		return fmt.Errorf("topology: mesh %q: want %s, %s or %s", t.Mesh, scenario.Duomesh, scenario.DNAT, scenario.NoMesh)
	}
	nodes, pods := map[string]bool{}, map[string]bool{}
	for _, n := range t.Nodes {
		if err := checkName("node", n.Name, nodes); err != nil {
			return err
		}
		if len(n.Pods) > MaxPodsPerNode {
			return fmt.Errorf("topology: node %s: %d pods, at most %d", n.Name, len(n.Pods), MaxPodsPerNode)
		}
		for _, p := range n.Pods {
			if err := checkPod(p, pods); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkName(kind, name string, seen map[string]bool) error {
	if !label.MatchString(name) {
		return fmt.Errorf("topology: %s %q: the name is no lower-case DNS label", kind, name)
	}
	if seen[name] {
		return fmt.Errorf("topology: %s %s: declared twice", kind, name)
	}
	seen[name] = true
	return nil
}

func checkPod(p scenario.Pod, seen map[string]bool) error {
	if err := checkName("pod", p.Name, seen); err != nil {
		return err
	}
	if p.Addresses < 0 || p.Addresses > scenario.MaxAddresses {
		return fmt.Errorf("topology: pod %s: %d addresses of each family, at most %d", p.Name, p.Addresses, scenario.MaxAddresses)
	}
	if p.Waypoint && (p.Managed || serves(p)) {
		return fmt.Errorf("topology: pod %s: a waypoint is never managed and serves nothing of its own", p.Name)
	}
	for _, ports := range [][]uint16{slices.Concat(p.Serve, p.ServeFirst), p.ServeUDP} {
		if err := checkPorts(p.Name, ports); err != nil {
			return err
		}
	}
	return nil
}

func checkPorts(pod string, ports []uint16) error {
	for i, port := range ports {
		if port == 0 || slices.Contains(ports[:i], port) {
			return fmt.Errorf("topology: pod %s: port %d is zero or declared twice", pod, port)
		}
	}
	return nil
}

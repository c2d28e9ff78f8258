package netsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/scenario"
)

// StateSchema and StateVersion head every state file.
const (
	StateSchema  = "duomesh/netsim"
	StateVersion = 1
)

const stateFile = "state.json"

// State is what a living cluster says of itself to other processes.
type State struct {
	Schema   string         `json:"schema"`
	Version  int            `json:"version"`
	ID       string         `json:"id"`
	PID      int            `json:"pid"`
	Started  time.Time      `json:"started"`
	Mesh     scenario.Mesh  `json:"mesh"`
	Cgroup   string         `json:"cgroup"`
	Nodes    []NodeState    `json:"nodes"`
	Services []ServiceState `json:"services"`
	// Kubeconfig is a path, where the cluster has a control plane.
	Kubeconfig string `json:"kubeconfig,omitempty"`
}

// NodeState is one node of a State.
type NodeState struct {
	Name string `json:"name"`
	// Netns is a path that opens the namespace while the cluster lives.
	Netns  string `json:"netns"`
	Cgroup string `json:"cgroup"`
	BPFFS  string `json:"bpffs,omitempty"`
	// Admin is where the admin API of the node's engine is reached; nil where
	// the mesh is not Duomesh.
	Admin *api.Place `json:"admin,omitempty"`
	Pods  []PodState `json:"pods"`
}

// PodState is one pod of a State.
type PodState struct {
	Name   string     `json:"name"`
	Node   string     `json:"node"`
	Netns  string     `json:"netns"`
	Cgroup string     `json:"cgroup"`
	IPv4   netip.Addr `json:"ipv4,omitzero"`
	IPv6   netip.Addr `json:"ipv6,omitzero"`
	Serve  []uint16   `json:"serve,omitempty"`
	// ServeUDP are the UDP ports, Serve the TCP ports.
	ServeUDP []uint16    `json:"serve_udp,omitempty"`
	Managed  bool        `json:"managed"`
	Links    []LinkState `json:"links"`
	// Waypoint is the address of the admin API of the waypoint that runs in the pod; empty
	// where none does.
	Waypoint string `json:"waypoint,omitempty"`
}

// LinkState is one end of a pod's link.
type LinkState struct {
	Netns   string `json:"netns"`
	Ifindex int    `json:"ifindex"`
	InPod   bool   `json:"in_pod"`
}

// ServiceState is one service of a State.
type ServiceState struct {
	Name      string              `json:"name"`
	Addresses []netip.Addr        `json:"addresses"`
	Ports     []scenario.Port     `json:"ports"`
	Endpoints []scenario.Endpoint `json:"endpoints"`
}

// saveState writes the state file; readers see the old or the new one whole.
func (c *Cluster) saveState() error {
	data, err := json.MarshalIndent(c.State(), "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	path := filepath.Join(c.run.path, stateFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// State returns what the cluster is now.
func (c *Cluster) State() State {
	s := State{
		Schema: StateSchema, Version: StateVersion, ID: c.cfg.ID, PID: os.Getpid(),
		Started: c.started, Mesh: c.mesh, Cgroup: c.cgroup, Nodes: []NodeState{}, Services: []ServiceState{},
	}
	if c.plane != nil {
		s.Kubeconfig = c.plane.Kubeconfig()
	}
	for _, n := range c.nodes {
		ns := NodeState{Name: n.name, Netns: fdPath(n.space.ns), Cgroup: n.cgroup.Name(), BPFFS: n.bpffs, Pods: []PodState{}}
		if c.mesh == scenario.Duomesh {
			ns.Admin = new(n.adminPlace(c.cfg))
		}
		for _, p := range n.pods {
			ns.Pods = append(ns.Pods, c.podState(p))
		}
		s.Nodes = append(s.Nodes, ns)
	}
	s.Services = append(s.Services, c.current().state()...)
	return s
}

func (c *Cluster) podState(p *pod) PodState {
	s := PodState{
		Name: p.spec.Name, Node: p.node.name, Netns: fdPath(p.netns), Cgroup: p.cgroup.Name(),
		IPv4: p.addrs.IPv4, IPv6: p.addrs.IPv6, Serve: p.spec.Serve, ServeUDP: p.spec.ServeUDP, Managed: c.isManaged(p.spec.Name),
	}
	if p.spec.Waypoint {
		s.Waypoint = "unix:" + filepath.Join(nodeDir(c.cfg, p.node), p.spec.Name, adminSocket)
	}
	for _, l := range p.links {
		s.Links = append(s.Links, LinkState{Netns: fdPath(l.Netns), Ifindex: l.Ifindex, InPod: l.InPod})
	}
	return s
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// Clusters returns the states of the living clusters below runDir (empty:
// DefaultRunDir), by ID. One that is just being opened has no state yet and is
// left out.
func Clusters(runDir string) ([]State, error) {
	if runDir == "" {
		runDir = DefaultRunDir
	}
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var states []State
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		s, err := readState(filepath.Join(runDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s != nil {
			states = append(states, *s)
		}
	}
	return states, nil
}

// readState returns the state of a living cluster, nil for a dead one.
func readState(dir string) (*State, error) {
	if gone, err := dead(dir); err != nil || gone {
		return nil, err
	}
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read state %s: %w", path, err)
	}
	if s.Schema != StateSchema || s.Version != StateVersion {
		return nil, fmt.Errorf("state %s is %s version %d; this program reads version %d", path, s.Schema, s.Version, StateVersion)
	}
	return &s, nil
}

// Find returns the living cluster with an ID; an empty ID means the only one.
func Find(runDir, id string) (State, error) {
	all, err := Clusters(runDir)
	if err != nil {
		return State{}, err
	}
	if len(all) == 0 {
		return State{}, errors.New("no cluster is running: start one with `duomesh netsim up -f FILE`")
	}
	var ids []string
	for _, s := range all {
		if s.ID == id || (id == "" && len(all) == 1) {
			return s, nil
		}
		ids = append(ids, s.ID)
	}
	if id == "" {
		return State{}, fmt.Errorf("several clusters are running, name one of %s", strings.Join(ids, ", "))
	}
	return State{}, fmt.Errorf("no cluster %q is running: there are %s", id, strings.Join(ids, ", "))
}

// FindPod returns a pod of a living cluster by "POD" or "CLUSTER/POD"; without
// a cluster the pod's name must be in one cluster only.
func FindPod(runDir, name string) (PodState, error) {
	id, pod, both := strings.Cut(name, "/")
	if both {
		s, err := Find(runDir, id)
		if err != nil {
			return PodState{}, err
		}
		return s.Pod(pod)
	}
	all, err := Clusters(runDir)
	if err != nil {
		return PodState{}, err
	}
	var have []State
	for _, s := range all {
		if _, err := s.Pod(name); err == nil {
			have = append(have, s)
		}
	}
	switch {
	case len(have) == 1:
		return have[0].Pod(name)
	case len(have) > 1:
		return PodState{}, fmt.Errorf("pod %q is in several clusters: write CLUSTER/%s", name, name)
	}
	s, err := Find(runDir, "")
	if err != nil {
		return PodState{}, fmt.Errorf("no pod %q: %w", name, err)
	}
	return s.Pod(name)
}

// Pod returns a pod of the cluster by its name.
func (s State) Pod(name string) (PodState, error) {
	var names []string
	for _, n := range s.Nodes {
		if i := slices.IndexFunc(n.Pods, func(p PodState) bool { return p.Name == name }); i >= 0 {
			return n.Pods[i], nil
		}
		for _, p := range n.Pods {
			names = append(names, p.Name)
		}
	}
	return PodState{}, unknownPod(name, names)
}

package ambient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Config is a mesh to open.
type Config struct {
	// Program is what runs on every node.
	Program Program
	// Protocol is how the pods are reached.
	Protocol Protocol
	// Workers is the number of threads that carry traffic.
	Workers int
	// AccessLog keeps the line per connection that a proxy writes by default.
	AccessLog bool
	Nodes     []Node
	Pods      []Pod
	Services  []Service
	// Waypoint is the pod through which all services go, by HBONE on either side of
	// it; nil without one. No node proxy captures it: see Tunnel for what runs there.
	Waypoint *Pod
	// Dir is where the mesh keeps its files: made by Open, removed by Close. Empty
	// means a temporary one.
	Dir string
}

// Node is a simulated node. The descriptor is the caller's.
type Node struct {
	Name  string
	Netns *os.File
	// Start starts a program in the node's namespace, and in the cgroup where its
	// processor time is looked for.
	Start func(ctx context.Context, c Command) (Process, error)
	// Program is this node's proxy where it is another than the mesh's.
	Program *Program
}

// Program is a node proxy to start.
type Program struct {
	// Binary is a ztunnel, or a program that is started as the stand-in.
	Binary string
	// Argv is its argument vector; empty means that of ztunnel.
	Argv []string
}

// Command is a program to start on a node.
type Command struct {
	Path string
	Argv []string
	Env  []string
	Dir  string
	Log  *os.File
}

// Process is a program that was started on a node.
type Process interface {
	PID() int
	// Done is closed when it has ended; Wait then says how.
	Done() <-chan struct{}
	Wait() error
	// Stop ends it and waits.
	Stop(ctx context.Context)
}

// Mesh is a running baseline: a node proxy on each node, and pods whose traffic
// goes through it. The caller closes it.
type Mesh struct {
	cfg     Config
	dir     string
	ca      *authority
	proxies []*proxy
}

// Open starts the node proxies and returns when each has its pods, its
// certificates and its workloads, and the pods are captured. On error nothing is
// left but the log of the proxy that failed, which the error names.
func Open(ctx context.Context, cfg Config) (_ *Mesh, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	m := &Mesh{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open the mesh of %s: %w", filepath.Base(cfg.Program.Binary), err), m.Close())
		}
	}()
	if m.dir = cfg.Dir; m.dir == "" {
		m.dir, err = os.MkdirTemp("", "duomesh-ambient-")
	} else {
		err = os.Mkdir(m.dir, 0o700)
	}
	if err != nil {
		m.dir = ""
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if m.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	if err := m.write(); err != nil {
		return nil, err
	}
	for _, p := range cfg.Pods {
		if err := Capture(p.Netns); err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.Name, err)
		}
	}
	var starting errgroup.Group
	for _, n := range cfg.Nodes {
		p := &proxy{mesh: m, node: n}
		m.proxies = append(m.proxies, p)
		starting.Go(func() error {
			if err := p.open(ctx); err != nil {
				return fmt.Errorf("node %s: %w", n.Name, err)
			}
			return nil
		})
	}
	return m, starting.Wait()
}

func (c Config) withDefaults() (Config, error) {
	var err error
	if c.Program, err = c.Program.withDefaults(); err != nil {
		return c, err
	}
	c.Nodes = slices.Clone(c.Nodes)
	for i, n := range c.Nodes {
		own := c.Program
		if n.Program != nil {
			if own, err = n.Program.withDefaults(); err != nil {
				return c, fmt.Errorf("node %s: %w", n.Name, err)
			}
		}
		c.Nodes[i].Program = &own
	}
	if c.Protocol != HBONE && c.Protocol != TCP {
		return c, fmt.Errorf("protocol %q: must be %s or %s", c.Protocol, HBONE, TCP)
	}
	if c.Waypoint != nil && c.Protocol != HBONE {
		return c, fmt.Errorf("waypoint %s: it is reached by %s alone, and the protocol is %s", c.Waypoint.Name, HBONE, c.Protocol)
	}
	c.Workers = max(c.Workers, 1)
	for _, p := range c.Pods {
		if !slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.Name == p.Node }) {
			return c, fmt.Errorf("pod %s is on node %q, which is not given", p.Name, p.Node)
		}
	}
	return c, nil
}

func (p Program) withDefaults() (Program, error) {
	if p.Binary == "" {
		return p, errors.New("no node proxy is given")
	}
	path, err := filepath.Abs(p.Binary)
	if err != nil {
		return p, err
	}
	if info, err := os.Stat(path); err != nil {
		return p, fmt.Errorf("node proxy: %w", err)
	} else if info.IsDir() || info.Mode()&0o111 == 0 {
		return p, fmt.Errorf("node proxy %s: not a program", path)
	}
	p.Binary = path
	if len(p.Argv) == 0 {
		p.Argv = []string{path, "proxy"}
	}
	return p, nil
}

// Files in the mesh's directory.
const (
	rootFile      = "root.pem"
	workloadsFile = "workloads.yaml"
)

func (m *Mesh) write() error {
	file, err := workloads(m.cfg.Pods, m.cfg.Services, m.cfg.Protocol, m.cfg.Waypoint)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(m.dir, rootFile), m.ca.pem, 0o644),
		os.WriteFile(filepath.Join(m.dir, workloadsFile), file, 0o644),
	)
}

// Version is what the proxies call themselves.
func (m *Mesh) Version() string { return m.proxies[0].version }

// Signed is the number of certificates that the mesh's authority has signed.
func (m *Mesh) Signed() int64 { return m.ca.signed.Load() }

// Credentials signs the identity of the mesh's waypoint.
func (m *Mesh) Credentials() (Credentials, error) {
	if m.cfg.Waypoint == nil {
		return Credentials{}, errors.New("the mesh has no waypoint")
	}
	return m.ca.issue(m.cfg.Waypoint.Identity())
}

// Opened is the number of connections that the clients' proxies say they opened,
// by what they know of both ends.
func (m *Mesh) Opened(ctx context.Context) ([]Opened, error) {
	var all []Opened
	for _, p := range m.proxies {
		mine, err := p.asked.Opened(ctx)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", p.node.Name, err)
		}
		all = append(all, mine...)
	}
	return all, nil
}

// ResidentBytes is the memory of each node's proxy.
func (m *Mesh) ResidentBytes() (map[string]uint64, error) {
	all := map[string]uint64{}
	for _, p := range m.proxies {
		b, err := residentBytes(p.proc.PID())
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", p.node.Name, err)
		}
		all[p.node.Name] = b
	}
	return all, nil
}

// Check returns an error when a proxy has ended; it names the log, which stays.
func (m *Mesh) Check() error {
	for _, p := range m.proxies {
		if err := p.check(); err != nil {
			return fmt.Errorf("node %s: %w", p.node.Name, err)
		}
	}
	return nil
}

// Close ends the proxies, and removes rules and files.
func (m *Mesh) Close() error {
	var errs []error
	for _, p := range m.proxies {
		errs = append(errs, p.close())
	}
	m.proxies = nil
	for _, p := range m.cfg.Pods {
		errs = append(errs, Release(p.Netns))
	}
	if m.dir != "" {
		errs = append(errs, os.RemoveAll(m.dir))
	}
	return errors.Join(errs...)
}

// listenIn opens a TCP listener inside a namespace.
func listenIn(ns *os.File, address string) (l net.Listener, err error) {
	err = kernel.InNetns(ns, func() (err error) {
		l, err = net.Listen("tcp4", address)
		return err
	})
	return l, err
}

// Workers is the number of threads of each proxy that carry traffic.
func (m *Mesh) Workers() int { return m.cfg.Workers }

// AccessLog says whether the proxies write a line per connection.
func (m *Mesh) AccessLog() bool { return m.cfg.AccessLog }

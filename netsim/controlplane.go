package netsim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
)

// ControlPlaneConfig is how a control plane is opened.
type ControlPlaneConfig struct {
	// ID names it on this machine, beside the clusters; empty means a random name.
	ID string
	// RunDir is that of the clusters; empty means DefaultRunDir.
	RunDir   string
	Binaries controlplane.Binaries
	// IstiodEnv is added to istiod's environment, as "NAME=value".
	IstiodEnv []string
	// Logs is where the logs stay when the control plane is closed; empty keeps
	// none.
	Logs string
	// Log takes what is no error; nil discards it.
	Log *slog.Logger
}

// ControlPlane is a real etcd, kube-apiserver and istiod on a simulated node of
// their own, which the nodes and pods of one cluster at a time reach.
type ControlPlane struct {
	cfg        ControlPlaneConfig
	run        *runDir
	cgroup     string
	own        *clusterCgroup
	node       *node
	stack      *controlplane.Stack
	relay      *relay
	kubeconfig string

	mu   sync.Mutex
	user *Cluster

	closeOnce sync.Once
	closeErr  error
}

// planeIndex is the control plane's place in the address plan, above all nodes.
const planeIndex = 64

// planeName is the name of the control plane's node.
const planeName = controlplane.HostName

// firstVIPs are the addresses of Kubernetes' own service.
func firstVIPs() []netip.Addr { return []netip.Addr{vipRange4.Addr().Next(), vipRange6.Addr().Next()} }

// OpenControlPlane starts a control plane and returns when istiod serves. It needs
// root and a cgroup2 mount. The caller closes it, after the clusters that use it; on
// error nothing of it is left but the logs.
func OpenControlPlane(ctx context.Context, cfg ControlPlaneConfig) (_ *ControlPlane, err error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("netsim needs root to make network namespaces: %w", unix.EPERM)
	}
	if cfg.ID == "" {
		id := make([]byte, 4)
		rand.Read(id) // never fails (crypto/rand)
		cfg.ID = "istiod-" + hex.EncodeToString(id)
	}
	base, err := Config{ID: cfg.ID, RunDir: cfg.RunDir, Log: cfg.Log}.withDefaults()
	if err != nil {
		return nil, err
	}
	cfg.RunDir, cfg.Log = base.RunDir, base.Log
	if err := Sweep(ctx, cfg.RunDir); err != nil {
		cfg.Log.Warn("what a dead cluster left could not be removed", "error", err)
	}
	p := &ControlPlane{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open control plane %s: %w", cfg.ID, interrupted(ctx, err)), p.Close())
		}
	}()
	if p.cgroup, err = cgroupOf(cfg.ID); err != nil {
		return nil, err
	}
	if p.run, err = claimRunDir(base); err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *ControlPlane) open(ctx context.Context) error {
	var err error
	if p.own, err = claimCgroup(p.cgroup, p.run.path); err != nil {
		return err
	}
	if p.node, err = makeNode(filepath.Join(p.cgroup, planeName), planeIndex, planeName, haveIPv6()); err != nil {
		return err
	}
	if p.cfg.Logs != "" {
		if err := os.MkdirAll(p.cfg.Logs, 0o755); err != nil {
			return fmt.Errorf("make directory for logs: %w", err)
		}
	}
	p.stack, err = controlplane.Open(ctx, controlplane.Config{
		Binaries: p.cfg.Binaries, Start: p.start, Dial: p.dial, Dir: p.run.path, Logs: p.cfg.Logs,
		Addresses: p.addresses(), Services: p.ranges(), IstiodEnv: p.cfg.IstiodEnv, Log: p.cfg.Log,
	})
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return err // nobody wants to know more
	case err != nil:
		return errors.Join(err, p.keepLogs())
	}
	if p.relay, err = openRelay(func() (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), relayTime)
		defer cancel()
		return p.dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", controlplane.APIServerPort))
	}); err != nil {
		return err
	}
	config, err := p.stack.Kubeconfig("https://" + p.relay.address())
	if err != nil {
		return err
	}
	p.kubeconfig = filepath.Join(p.run.path, "kubeconfig")
	if err := os.WriteFile(p.kubeconfig, config, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// keepLogs saves the logs of a control plane that did not come up from the end of its
// directory, where nobody has named another place for them.
func (p *ControlPlane) keepLogs() error {
	logs, err := filepath.Glob(filepath.Join(p.run.path, "*.log"))
	if err != nil || len(logs) == 0 || p.cfg.Logs != "" {
		return err
	}
	dir, err := os.MkdirTemp("", "duomesh-"+p.cfg.ID+"-")
	if err != nil {
		return fmt.Errorf("keep the logs: %w", err)
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(log)), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the logs: %w", err)
		}
	}
	return fmt.Errorf("the logs are kept in %s", dir)
}

// relayTime bounds how long a caller of the API server waits for a connection.
const relayTime = 10 * time.Second

func (p *ControlPlane) addresses() []netip.Addr {
	a := nodeAddrs(planeIndex)
	if !p.node.ipv6 {
		return []netip.Addr{a.IPv4}
	}
	return a.list()
}

func (p *ControlPlane) ranges() []netip.Prefix {
	if !p.node.ipv6 {
		return []netip.Prefix{vipRange4}
	}
	return []netip.Prefix{vipRange4, vipRange6}
}

func (p *ControlPlane) start(c controlplane.Command) (controlplane.Process, error) {
	// It outlives every call.
	return startIn(context.Background(), p.node.space.ns, p.node.own, Command{
		Argv: c.Argv, Env: c.Env, Dir: c.Dir, Stdout: c.Output, Stderr: c.Output,
	})
}

// dial connects inside the control plane's namespace.
func (p *ControlPlane) dial(ctx context.Context, network, address string) (net.Conn, error) {
	// One attempt after the other: all on the thread that InNetns has moved.
	d := net.Dialer{FallbackDelay: -1}
	var conn net.Conn
	err := kernel.InNetns(p.node.space.ns, func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Stack is the control plane itself.
func (p *ControlPlane) Stack() *controlplane.Stack { return p.stack }

// Kubeconfig is the path of a kubeconfig of the administrator's that works on this
// machine, as long as the control plane is open.
func (p *ControlPlane) Kubeconfig() string { return p.kubeconfig }

// Dir is the control plane's own directory.
func (p *ControlPlane) Dir() string { return p.run.path }

// take makes c the one that uses the control plane.
func (p *ControlPlane) take(c *Cluster) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user != nil {
		return fmt.Errorf("control plane %s is used by cluster %s", p.cfg.ID, p.user.cfg.ID)
	}
	p.user = c
	return nil
}

func (p *ControlPlane) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user = nil
}

// Close ends the control plane and removes it. It may be repeated.
func (p *ControlPlane) Close() error {
	p.closeOnce.Do(func() {
		if err := p.close(); err != nil {
			p.closeErr = fmt.Errorf("close control plane %s: %w", p.cfg.ID, err)
		}
	})
	return p.closeErr
}

func (p *ControlPlane) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	errs := []error{p.relay.close()}
	if p.stack != nil {
		p.stack.Close()
	}
	if p.own != nil {
		errs = append(errs, p.own.remove(ctx))
	}
	if p.node != nil {
		errs = append(errs, p.node.close())
	}
	if p.run != nil {
		errs = append(errs, p.run.remove())
	}
	return errors.Join(errs...)
}

// checkPlane reports why a cluster cannot be driven by the control plane of its Config.
func (c Config) checkPlane(t scenario.Topology) error {
	switch {
	case c.ControlPlane == nil:
		return nil
	case t.Mesh != scenario.Duomesh:
		return fmt.Errorf("%w: mesh %q asks no control plane", scenario.ErrNotExpressible, t.Mesh)
	case c.Agent == "":
		return errors.New("a control plane needs agents to ask it: no duomesh-agent is at hand")
	}
	for _, n := range t.Nodes {
		switch {
		case n.Name == planeName:
			return fmt.Errorf("topology: node %s: the name is the control plane's", n.Name)
		case n.Place.Cluster != "":
			return fmt.Errorf("%w: node %s in cluster %s: istiod has one cluster, its own", scenario.ErrNotExpressible, n.Name, n.Place.Cluster)
		case n.Place.Network != "":
			return fmt.Errorf("%w: node %s in network %s: istiod takes all Pods to be in the mesh's own", scenario.ErrNotExpressible, n.Name, n.Place.Network)
		}
		for _, p := range n.Pods {
			if p.Addresses > 1 {
				return fmt.Errorf("%w: pod %s has %d addresses of each family: a Pod of Kubernetes has one", scenario.ErrNotExpressible, p.Name, p.Addresses)
			}
		}
	}
	return nil
}

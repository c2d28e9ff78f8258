package netsim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/scenario"
)

// agentMesh is a node whose engine lives in an agent of its own: a child in the
// node's namespace and cgroup, fed by a file or by an istiod, that can be killed and
// started.
type agentMesh struct {
	exe    string
	node   *node
	dir    string // of the node in the cluster's run directory
	client *api.Client
	feed   feed
	more   []string // arguments beside the feed's
	log    *slog.Logger

	mu     sync.Mutex
	proc   *Process // nil: none was started
	wanted bool     // it is to run
}

// Files of a node with an agent, in its directory.
const (
	enrolFile = "enrol.sock"
	agentLog  = "agent.log"
)

// agentPoll is how often an agent that is starting is asked.
const agentPoll = 10 * time.Millisecond

// openAgent starts the node's agent with an empty state and returns when the
// kernel has that.
func openAgent(ctx context.Context, cfg Config, n *node, from feed) (_ mesh, err error) {
	if cfg.Engine != (dataplane.Options{}) {
		return nil, fmt.Errorf("%w: options of an engine that lives in an agent", scenario.ErrNotExpressible)
	}
	exe, err := filepath.Abs(cfg.Agent)
	if err != nil {
		return nil, err
	}
	a := &agentMesh{exe: exe, node: n, dir: nodeDir(cfg, n), client: api.NewClient(n.adminPlace(cfg)), feed: from, more: cfg.AgentArgs, log: cfg.Log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if err := a.feed.put(newDesired()); err != nil {
		return nil, err
	}
	return a, a.start(ctx)
}

// agentOf returns the agent of a node.
func (c *Cluster) agentOf(name string) (*agentMesh, error) {
	for _, n := range c.nodes {
		if n.name != name {
			continue
		}
		if a, ok := n.mesh.(*agentMesh); ok {
			return a, nil
		}
		return nil, fmt.Errorf("%w: node %s has no agent of its own", scenario.ErrNotExpressible, name)
	}
	_, err := c.Node(name)
	return nil, err
}

// AgentArgs are the arguments with which a node's agent is started, for those
// who want to see what a second one does.
func (c *Cluster) AgentArgs(node string) ([]string, error) {
	a, err := c.agentOf(node)
	if err != nil {
		return nil, err
	}
	return a.args(), nil
}

func (a *agentMesh) args() []string {
	args := slices.Concat([]string{
		a.exe, "--node", a.node.name, "--cgroup", a.node.cgroup.Name(), "--bpffs", a.node.bpffs,
		"--enrol-socket", filepath.Join(a.dir, enrolFile), "--admin", api.AdminAddress,
	}, a.feed.args(), a.more)
	if l := a.node.place.Locality; l.Region != "" {
		args = append(args, "--locality", strings.TrimRight(l.Region+"/"+l.Zone+"/"+l.Subzone, "/"))
	}
	return args
}

// env says where the node stands, and what the feed needs.
func (a *agentMesh) env() []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "CLUSTER_ID=" + a.node.place.Cluster, "ISTIO_META_NETWORK=" + a.node.place.Network,
	}, a.feed.env()...)
}

// start starts the agent and returns when it has taken over what is pinned, and
// the kernel has what was put last.
func (a *agentMesh) start(ctx context.Context) error { return a.launch(ctx, a.feed.goal(true)) }

// LaunchAgent starts the agent of a node that was killed, and returns when it
// answers: what it has is for the caller to find out.
func (c *Cluster) LaunchAgent(ctx context.Context, node string) error {
	a, err := c.agentOf(node)
	if err != nil {
		return err
	}
	return a.launch(ctx, func(ctx context.Context, c *api.Client) (bool, error) {
		_, err := c.Status(ctx, "")
		return err == nil, err
	})
}

// launch starts the agent and returns when it has reached a goal.
func (a *agentMesh) launch(ctx context.Context, reached goal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc != nil && !a.proc.ended() {
		return fmt.Errorf("node %s: its agent runs already", a.node.name)
	}
	log, err := os.OpenFile(filepath.Join(a.dir, agentLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of the agent: %w", err)
	}
	defer log.Close()
	// It outlives the call.
	a.proc, err = startIn(context.WithoutCancel(ctx), a.node.space.ns, a.node.own, Command{
		Argv: a.args(), Env: a.env(), Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	a.wanted = true
	go a.watch(a.proc)
	return a.await(ctx, a.proc, reached)
}

// watch says so when an agent ends that nobody here has ended.
func (a *agentMesh) watch(proc *Process) {
	<-proc.done
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wanted && a.proc == proc {
		a.log.Error("the agent of a node ended, what it has pinned goes on", "node", a.node.name, "error", proc.Wait(), "log", filepath.Join(a.dir, agentLog))
	}
}

// dismiss says that the agent may end.
func (a *agentMesh) dismiss() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = false
}

// runs reports whether the agent runs.
func (a *agentMesh) runs() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.proc != nil && !a.proc.ended()
}

// kill ends the agent by SIGKILL, and returns when it is dead.
func (a *agentMesh) kill() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc == nil || a.proc.ended() {
		return fmt.Errorf("node %s: no agent runs", a.node.name)
	}
	a.wanted = false
	if err := a.proc.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("node %s: kill the agent: %w", a.node.name, err)
	}
	<-a.proc.done
	return nil
}

// running returns the agent's process, or why there is none.
func (a *agentMesh) running() (*Process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.proc == nil || a.proc.ended() {
		return nil, fmt.Errorf("its agent does not run%s", a.lastWords())
	}
	return a.proc, nil
}

// lastWords is the end of the agent's log.
func (a *agentMesh) lastWords() string {
	data, err := os.ReadFile(filepath.Join(a.dir, agentLog))
	if err != nil || len(data) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return ": " + lines[len(lines)-1]
}

func (a *agentMesh) apply(ctx context.Context, d *desired) error {
	if err := a.feed.put(d); err != nil {
		return err
	}
	return a.confirm(ctx)
}

// confirm returns when the agent has applied what was put last.
func (a *agentMesh) confirm(ctx context.Context) error {
	goal := a.feed.goal(false)
	proc, err := a.running()
	if err != nil {
		return err
	}
	return a.await(ctx, proc, goal)
}

// await asks until the agent has reached a goal, or has ended. One that is starting
// does not listen yet.
func (a *agentMesh) await(ctx context.Context, proc *Process, reached goal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-proc.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(agentPoll)
	defer tick.Stop()
	for {
		done, err := reached(ctx, a.client)
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			if proc.ended() {
				return fmt.Errorf("its agent ended: %w%s", proc.Wait(), a.lastWords())
			}
			return fmt.Errorf("its agent does not have it: %w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func (a *agentMesh) enrol(p *pod) error {
	return a.ask(func(ctx context.Context, socket string) error {
		return api.Enrol(ctx, socket, podOf(p).Name, p.netns, p.cgroup)
	})
}

func (a *agentMesh) leave(p *pod) error {
	return a.ask(func(ctx context.Context, socket string) error {
		return api.Leave(ctx, socket, podOf(p).Name, p.netns)
	})
}

func (a *agentMesh) serveWaypoint(p *pod) error {
	return a.ask(func(ctx context.Context, socket string) error {
		return api.ServeWaypoint(ctx, socket, podOf(p).Name, p.netns, p.cgroup, scenario.HandOffPort)
	})
}

// enrolTime bounds how long an agent may take over one enrolment.
const enrolTime = 10 * time.Second

func (a *agentMesh) ask(what func(ctx context.Context, socket string) error) error {
	if _, err := a.running(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), enrolTime)
	defer cancel()
	return what(ctx, filepath.Join(a.dir, enrolFile))
}

// close ends the agent. Its pins go with the node's BPF file system.
func (a *agentMesh) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.client.Close()
	a.wanted = false // on a start that failed
	if a.proc == nil {
		return err
	}
	if killed := a.proc.kill(); killed != nil && !errors.Is(killed, os.ErrProcessDone) {
		return errors.Join(err, fmt.Errorf("end the agent: %w", killed))
	}
	<-a.proc.done
	return err
}

package netsim

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"golang.org/x/sync/errgroup"
)

// servers are the traffic servers of the pods that serve, started when first
// needed.
type servers struct {
	mu    sync.Mutex
	byPod map[string]*podServer
}

// podServer is one pod's server. A stopped one is not started again.
type podServer struct {
	mu      sync.Mutex
	remote  *traffic.RemoteServer
	stopped bool
}

func (s *servers) of(pod string) *podServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPod == nil {
		s.byPod = map[string]*podServer{}
	}
	p := s.byPod[pod]
	if p == nil {
		p = new(podServer)
		s.byPod[pod] = p
	}
	return p
}

// running are the servers that have been started, by pod.
func (s *servers) running() map[string]*traffic.RemoteServer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]*traffic.RemoteServer{}
	for pod, p := range s.byPod {
		p.mu.Lock()
		if p.remote != nil {
			all[pod] = p.remote
		}
		p.mu.Unlock()
	}
	return all
}

// close waits for the end of processes that have been killed already: how they
// ended is no news.
func (s *servers) close() {
	for _, r := range s.running() {
		r.Close()
	}
}

// StartServers starts the traffic servers of all pods that serve and returns
// when they listen. Loads start what they need by themselves; this is for
// clients of other kinds.
func (c *Cluster) StartServers(ctx context.Context) error {
	var pods []string
	for name := range c.pods {
		pods = append(pods, name)
	}
	return c.needServers(ctx, pods)
}

// needServers returns when the servers of pods listen; pods that serve nothing
// are passed over.
func (c *Cluster) needServers(ctx context.Context, pods []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, name := range pods {
		if p := c.pods[name]; serves(p.spec) {
			g.Go(func() error { return c.startServer(ctx, p) })
		}
	}
	return g.Wait()
}

func serves(p scenario.Pod) bool { return len(p.Serve)+len(p.ServeFirst)+len(p.ServeUDP) > 0 }

func (c *Cluster) startServer(ctx context.Context, p *pod) error {
	name := p.spec.Name
	s := c.servers.of(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote != nil || s.stopped {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The process outlives the call that needed it first.
	life := context.WithoutCancel(ctx)
	cfg := traffic.ServerConfig{Name: name, Ports: p.spec.Serve, First: p.spec.ServeFirst, UDP: p.spec.ServeUDP}
	r, err := traffic.StartServer(life, c.launcher(name), cfg, func(t traffic.Conn) { c.witness.Server(name, t) })
	if err != nil {
		return fmt.Errorf("pod %s: %w", name, err)
	}
	s.remote = r
	return nil
}

func (c *Cluster) stopServer(ctx context.Context, pod string) error {
	p, err := c.pod(pod)
	if err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	if !serves(p.spec) {
		return fmt.Errorf("stop server: pod %s serves nothing", pod)
	}
	s := c.servers.of(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.remote == nil {
		return nil
	}
	if err := s.remote.Stop(ctx); err != nil {
		return fmt.Errorf("pod %s: %w", pod, err)
	}
	return nil
}

// launcher starts traffic processes in a pod.
func (c *Cluster) launcher(pod string) traffic.Launch {
	return func(ctx context.Context, args []string, stdin, stdout *os.File) (func() error, error) {
		p, err := c.Start(ctx, pod, Command{Argv: args, Path: c.cfg.Exe, Stdin: stdin, Stdout: stdout})
		if err != nil {
			return nil, err
		}
		return p.Wait, nil
	}
}

// Served implements scenario.World.
func (c *Cluster) Served(ctx context.Context) (map[string][]traffic.Conn, error) {
	served, err := c.witness.Collect(ctx, c.servers.running())
	if err != nil {
		return served, fmt.Errorf("collect what servers saw: %w", err)
	}
	return served, nil
}

package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// openNetsim opens simulated pods as the world of a scenario. Nodes have an agent
// of their own where the scenario needs that.
func openNetsim(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	var cfg netsim.Config
	if t.Agents {
		cfg.Agent = agentBeside()
	}
	c, err := netsim.Open(ctx, cfg, t)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// agentBeside is the duomesh-agent in the directory of this program, as the build
// puts it; "" where there is none.
func agentBeside() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(self), "duomesh-agent")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

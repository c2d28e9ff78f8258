package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// openNetsim opens simulated pods as the world of a scenario. Nodes have an agent
// of their own where the scenario needs that.
func openNetsim(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	cfg := netsim.Config{Exe: beside("duomesh-traffic"), Waypoint: beside("duomesh-waypoint"), Envoy: envoyPath()}
	if t.Agents {
		cfg.Agent = beside("duomesh-agent")
	}
	c, err := netsim.Open(ctx, cfg, t)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// world is where scenarios run: simulated pods, with --istiod under one real control
// plane for all of them. done takes it down.
func (f verifyFlags) world(ctx context.Context) (name string, open scenario.Opener, done func() error, err error) {
	if !f.istiod {
		name, open, err = f.kube.world(ctx)
		return name, open, func() error { return nil }, err
	}
	if f.kube.given() {
		return "", nil, nil, usagef("--istiod and a Kubernetes cluster: give one of them")
	}
	if err := checkPlane(); err != nil {
		return "", nil, nil, err
	}
	plane, err := netsim.OpenControlPlane(ctx, netsim.ControlPlaneConfig{Binaries: planePrograms(os.Getenv)})
	if err != nil {
		return "", nil, nil, err
	}
	return "netsim+istiod", func(ctx context.Context, t scenario.Topology) (scenario.World, error) {
		c, err := netsim.Open(ctx, netsim.Config{
			Agent: beside("duomesh-agent"), Waypoint: beside("duomesh-waypoint"), Envoy: envoyPath(), ControlPlane: plane,
		}, t)
		if err != nil {
			return nil, err
		}
		return c, nil
	}, plane.Close, nil
}

// beside is a program in the directory of this one, as the build puts it; "" where
// there is none.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// checkEnvoy reports that ENVOY_BIN names no program.
func checkEnvoy() error {
	path := os.Getenv("ENVOY_BIN")
	if path == "" {
		return nil
	}
	if _, err := exec.LookPath(path); err != nil {
		return usagef("ENVOY_BIN: %w", err)
	}
	return nil
}

// envoyPath is the Envoy of ENVOY_BIN, else the one that make tools has put into the
// cache; "" where there is none.
func envoyPath() string { return envoy.Find(os.Getenv("ENVOY_BIN")) }

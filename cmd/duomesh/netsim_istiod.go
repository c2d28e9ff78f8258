package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// planePrograms are where the programs of a control plane are: what the environment
// names, else what `make controlplane` has built.
func planePrograms(env func(string) string) controlplane.Binaries {
	built := ""
	if cache, err := os.UserCacheDir(); err == nil {
		built = filepath.Join(cache, "duomesh", "controlplane", "current")
	}
	or := func(variable, name string) string {
		if path := env(variable); path != "" {
			return path
		}
		return filepath.Join(built, name)
	}
	b := controlplane.Binaries{
		Etcd: or("ETCD_BIN", "etcd"), APIServer: or("KUBE_APISERVER_BIN", "kube-apiserver"),
		Istiod: or("ISTIOD_BIN", "istiod"), Istioctl: or("ISTIOCTL_BIN", "istioctl"),
		GatewayCRDs: or("GATEWAY_CRDS", "gateway-crds"),
	}
	if _, err := os.Stat(b.GatewayCRDs); err != nil && env("GATEWAY_CRDS") == "" {
		b.GatewayCRDs = ""
	}
	return b
}

// checkIstiod reports why --istiod cannot be had.
func (f upFlags) checkIstiod(file netsim.File) error {
	switch {
	case !f.istiod:
		return nil
	case file.Topology.Mesh != scenario.Duomesh:
		return usagef("--istiod: mesh %s asks no istiod", file.Topology.Mesh)
	}
	return checkPlane()
}

// checkPlane reports why there can be no control plane and agents that ask it.
func checkPlane() error {
	if beside("duomesh-agent") == "" {
		return usagef("--istiod: there is no duomesh-agent beside this program")
	}
	if err := planePrograms(os.Getenv).Check(); err != nil {
		return usagef("--istiod: %w ('make controlplane' builds what is needed)", err)
	}
	return nil
}

// openPlane starts the control plane of a cluster; nil without --istiod.
func (f upFlags) openPlane(ctx context.Context, log *slog.Logger) (*netsim.ControlPlane, error) {
	if !f.istiod {
		return nil, nil
	}
	id := ""
	if f.id != "" {
		id = f.id + "-istiod"
	}
	return netsim.OpenControlPlane(ctx, netsim.ControlPlaneConfig{
		ID: id, RunDir: *f.runDir, Binaries: planePrograms(os.Getenv), Log: log,
	})
}

// printKube says how to reach a cluster's Kubernetes API, if it has one.
func printKube(out io.Writer, s netsim.State) {
	if s.Kubeconfig == "" {
		return
	}
	fmt.Fprintf(out, "\nexport KUBECONFIG=%s\n# then, for example: kubectl get pods,services,endpointslices\n", s.Kubeconfig)
}

package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/kind"
)

// kubeWorld says on which Kubernetes cluster scenarios and the bench run; on none, they run on
// simulated pods.
type kubeWorld struct {
	cluster  clusterFlags
	system   string
	image    string
	services string
}

func (k *kubeWorld) define(cmd *cobra.Command) {
	k.cluster.define(cmd)
	set := cmd.Flags()
	set.StringVar(&k.system, "system-namespace", "duomesh-system", "`NAMESPACE` of the agents on Kubernetes")
	set.StringVar(&k.image, "pod-image", "duomesh/netutils:0.1.0", "`IMAGE` of pods on Kubernetes: one that waits")
	set.StringVar(&k.services, "service-addresses", "10.96.64.0/18", "`PREFIX` of addresses for services on Kubernetes, inside the cluster's range; of a dual-stack cluster PREFIX,PREFIX6")
}

// netsimWorld is the name of the world of simulated pods in results.
const netsimWorld = "netsim"

// given is true when a cluster was named.
func (k kubeWorld) given() bool { return k.cluster.where != (cluster.Where{}) }

// world returns the name of the world and what opens it.
func (k kubeWorld) world(ctx context.Context) (string, scenario.Opener, error) {
	if !k.given() {
		return netsimWorld, openNetsim, nil
	}
	cfg, err := k.config(ctx)
	if err != nil {
		return "", nil, err
	}
	if cfg.Client.NoAgents(ctx) { // pods would wait for them in vain, scenario by scenario
		return "", nil, usagef("this cluster has no agents: duomesh install puts them there")
	}
	return "kind", kind.Opener(cfg), nil
}

// config says which cluster was named and what runs in it; the cluster answers.
func (k kubeWorld) config(ctx context.Context) (kind.Config, error) {
	var services [2]netip.Prefix
	for i, text := range strings.SplitN(k.services, ",", len(services)) {
		var err error
		if services[i], err = netip.ParsePrefix(text); err != nil {
			return kind.Config{}, usagef("--service-addresses: %w", err)
		}
	}
	c, err := k.cluster.open(ctx)
	if err != nil {
		return kind.Config{}, err
	}
	return kind.Config{Client: c, System: k.system, Image: k.image, Services: services[0], Services6: services[1]}, nil
}

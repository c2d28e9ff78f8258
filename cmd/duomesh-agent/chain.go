package main

import (
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// chain is what was last found of the CNI plugin in the node's chain.
type chain struct {
	dir string

	mu      sync.Mutex
	problem string
}

func newChain(dir string) *chain {
	return &chain{dir: dir, problem: "the node's chain was not looked at yet"}
}

// looked is told after each look at the directory.
func (c *chain) looked(installed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.problem = err.Error()
	case !installed:
		c.problem = fmt.Sprintf("%s has no configuration that can be read: the CNI plugin is in no chain", c.dir)
	default:
		c.problem = ""
	}
}

// Problem is why the plugin is not in the chain, "" when it is.
func (c *chain) Problem() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problem
}

// metrics are those of a Kubernetes node.
func (n node) metrics() []prometheus.Collector {
	var all []prometheus.Collector
	if n.chain != nil {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "duomesh_cni_chained", Help: "0 when the CNI plugin is not in the node's chain, so that pods start outside the mesh.",
		}, func() float64 {
			if n.chain.Problem() != "" {
				return 0
			}
			return 1
		}))
	}
	if n.controller != nil {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "duomesh_pods_outside_at_start_total",
			Help: "Pods that should have been in the mesh from their start, and did not come by the CNI plugin, since the agent started.",
		}, func() float64 { return float64(n.controller.Outside()) }))
	}
	return all
}

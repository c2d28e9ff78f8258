package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/kind"
)

// NoAmbient says what a cluster lacks for the rows of Istio Ambient; "" when nothing.
// programs then are those of its nodes, as Tools.Programs has them.
func NoAmbient(ctx context.Context, client *cluster.Client) (why string, programs map[string]string, err error) {
	found, err := kind.NodeProxies(ctx, client)
	if errors.Is(err, kind.ErrNoAmbient) {
		return err.Error(), nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	programs = map[string]string{}
	var errs []error
	for node, p := range found {
		words, err := programOf(ctx, p)
		if was := programs[ztunnelProgram]; err == nil && was != "" && was != words {
			err = fmt.Errorf("it is %s, on another node it is %s", words, was)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ztunnel of node %s: %w", node, err))
		}
		programs[ztunnelProgram] = words
		errs = append(errs, p.Close())
	}
	return "", programs, errors.Join(errs...)
}

// programOf is what a node's proxy says of itself, and the beginning of its digest.
func programOf(ctx context.Context, p *kind.NodeProxy) (string, error) {
	r := ambient.At(p.Netns)
	defer r.Close()
	about, err := r.About(ctx)
	if err != nil {
		return "", err
	}
	digest, err := digestOf(p.Program)
	return about.Version + ", sha256 " + digest, err
}

// behindProxies is a variant with node proxies.
type behindProxies struct {
	variant plan.Variant
	cluster *kind.Cluster
	asked   map[string]*ambient.Running
}

// askProxies makes what asks the proxies of the variant's nodes.
func (w *onCluster) askProxies(c *kind.Cluster, v plan.Variant) (map[string]*ambient.Running, error) {
	b := behindProxies{v, c, map[string]*ambient.Running{}}
	w.behind = append(w.behind, b)
	for _, name := range nodeNames {
		p, err := c.NodeProxy(name)
		if err != nil {
			return nil, err
		}
		b.asked[name] = ambient.At(p.Netns)
	}
	return b.asked, nil
}

// Describe implements Described.
func (w *onCluster) Describe(ctx context.Context) ([]result.Proxy, error) {
	var all []result.Proxy
	for _, b := range w.behind {
		one := result.Proxy{Variant: b.variant, ResidentBytes: map[string]uint64{}}
		for _, name := range nodeNames {
			p, err := b.cluster.NodeProxy(name)
			if err != nil {
				return all, err
			}
			about, err := b.asked[name].About(ctx)
			if err != nil {
				return all, fmt.Errorf("node %s: %w", name, err)
			}
			one.Program, one.Workers, one.AccessLog = ztunnelProgram+" "+about.Version, about.Workers, about.AccessLog
			each, err := residentIn(p.Cgroup)
			if err != nil {
				return all, fmt.Errorf("node %s: %w", name, err)
			}
			for _, bytes := range each {
				one.ResidentBytes[name] += bytes
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// awaitKnown returns when kube-proxy and the node proxies have what the clients of a site
// ask for. A connection that is made before leaves its mark in the kernels of pod and node:
// the next one of the same source port is sent where that went, past all of them.
func (w *onCluster) awaitKnown(ctx context.Context, c *kind.Cluster, s shape, site Site) error {
	if s.services == 0 || s.mesh == scenario.Duomesh {
		return nil
	}
	if err := c.ServeOutside(ctx); err != nil {
		return err
	}
	proxies, ok := site.Proxies.(clusterProxies)
	if !ok {
		return nil
	}
	service, err := netip.ParseAddrPort(site.Address)
	if err != nil {
		return fmt.Errorf("the service's address: %w", err)
	}
	to, err := c.Pod(serverPod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for _, name := range nodeNames {
		err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
			return proxies.asked[name].Lacks(ctx, service.Addr(), to.IPv4)
		})
		if err != nil {
			return fmt.Errorf("the node proxy of node %s: %w", name, err)
		}
	}
	return nil
}

// clusterProxies are the node proxies of a cluster, as a site sees them. All variants
// share them; while one runs, the others stand still.
type clusterProxies struct {
	cluster *kind.Cluster
	asked   map[string]*ambient.Running // by the topology's name of the node
	variant plan.Variant
	client  string
}

// CPU implements Proxies.
func (p clusterProxies) CPU() (map[string]time.Duration, error) { return cpuOf(p) }

// Cgroups implements Proxies.
func (p clusterProxies) Cgroups() (names []string, dirs []*os.File, err error) {
	for _, name := range nodeNames {
		proxy, err := p.cluster.NodeProxy(name)
		if err != nil {
			return nil, nil, err
		}
		names, dirs = append(names, "node proxy "+name), append(dirs, proxy.Cgroup)
	}
	return names, dirs, nil
}

// Opened implements Proxies.
func (p clusterProxies) Opened(ctx context.Context) ([]ambient.Opened, error) {
	var all []ambient.Opened
	for _, name := range nodeNames {
		mine, err := p.asked[name].Opened(ctx)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", name, err)
		}
		all = append(all, mine...)
	}
	return all, nil
}

// Want implements Proxies.
func (p clusterProxies) Want() (client, server ambient.Opened) {
	return wanted(p.variant, p.cluster.Namespace(), p.client)
}

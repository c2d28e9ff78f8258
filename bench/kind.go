package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/kind"
)

// clusterVariants are what a cluster with the agents and an istiod in it has: its pods,
// its own kube-proxy, and both engines; ambientVariants what one has with Istio Ambient
// beside them.
var (
	clusterVariants = []plan.Variant{plan.Direct, plan.DirectAA, plan.DNAT, plan.L4, plan.L7}
	ambientVariants = []plan.Variant{plan.Ztunnel, plan.ZtunnelWaypoint}
)

// OnCluster takes out of a plan what a cluster cannot show, and says there that it was
// NOT RUN, and why. noAmbient is what NoAmbient said of the cluster.
func OnCluster(p plan.Plan, noAmbient string) plan.Plan {
	p.World = plan.Kubernetes
	p.Variants = slices.DeleteFunc(slices.Clone(p.Variants), func(v plan.Variant) bool {
		behind := slices.Contains(ambientVariants, v)
		if slices.Contains(clusterVariants, v) || behind && noAmbient == "" {
			return false
		}
		reason := "on a cluster the waypoint has no listener that clients dial themselves"
		switch {
		case behind:
			reason = noAmbient
		case v == plan.ZtunnelPlain:
			reason = "on a cluster istiod has every pod that istio-cni redirects reached by HBONE: two ztunnels never speak plaintext"
		case v.Traits().Redirect:
			reason = "the stand-in is for simulated nodes"
		case v == plan.DNAT1000:
			reason = "the cluster's kube-proxy has rules for the services that are there"
		}
		p.Absent = append(slices.Clone(p.Absent), plan.Absent{Variant: v, Reason: reason})
		return true
	})
	return p
}

// onCluster is a namespace of a cluster per variant, all there at once.
type onCluster struct {
	cfg      kind.Config
	worlds   []*kind.Cluster
	sites    map[plan.Cell]Site
	programs []*programs
	// behind are the variants with node proxies, and how those are asked, by node.
	behind []behindProxies
}

// OpenCluster makes Worlds of a cluster whose nodes are on this machine. The caller
// closes them.
func OpenCluster(cfg kind.Config) func(context.Context, plan.Plan) (World, error) {
	return func(ctx context.Context, p plan.Plan) (_ World, err error) {
		w := &onCluster{cfg: cfg, sites: map[plan.Cell]Site{}}
		defer func() {
			if err != nil {
				err = errors.Join(err, w.Close())
			}
		}()
		for _, v := range p.Variants {
			if err := w.open(ctx, v, p); err != nil {
				return nil, fmt.Errorf("pods of %s: %w", v, err)
			}
		}
		return w, nil
	}
}

// clusterTopology is a variant's: what is not in the mesh are pods that it leaves alone.
// Behind node proxies all are, and the waypoint is one of istiod's.
func clusterTopology(s shape, redirect bool) scenario.Topology {
	t := topology(s)
	t.Mesh = scenario.Duomesh
	for _, n := range t.Nodes {
		for i := range n.Pods {
			p := &n.Pods[i]
			p.Waypoint = p.Waypoint || p.Name == proxyPod
			p.Managed = p.Managed || redirect && !p.Waypoint
		}
	}
	return t
}

// clusterServices are a variant's, where a waypoint is declared as any is.
func clusterServices(s shape) scenario.Objects {
	o := services(s)
	for i := range o.Services {
		if one := &o.Services[i]; s.tunnelled {
			one.Waypoint, one.Ports[0].Name = proxyPod, "http"
		}
	}
	return o
}

func (w *onCluster) open(ctx context.Context, v plan.Variant, p plan.Plan) error {
	s, cfg := shapeOf(v), w.cfg
	s.many = false // addresses of services are the cluster's, and not to be used up
	cfg.Ambient = v.Traits().Redirect
	c, err := kind.Open(ctx, cfg, clusterTopology(s, cfg.Ambient))
	if err != nil {
		return err
	}
	w.worlds = append(w.worlds, c)
	if s.services > 0 {
		if err := c.Apply(ctx, clusterServices(s)); err != nil {
			return err
		}
	}
	var asked map[string]*ambient.Running
	if cfg.Ambient {
		if asked, err = w.askProxies(c, v); err != nil {
			return err
		}
	}
	for place, client := range map[plan.Placement]string{plan.Cross: clientCross, plan.Same: clientSame} {
		site, err := w.site(c, s, client)
		if err != nil {
			return err
		}
		if cfg.Ambient {
			site.Proxies = clusterProxies{c, asked, v, client}
		}
		if slices.Contains(p.Placements, place) {
			if err := w.awaitKnown(ctx, c, s, site); err != nil {
				return err
			}
			if err := awaitAnswer(ctx, site, p, plan.Cell{Placement: place, Mode: plan.NewConn, Variant: v}); err != nil {
				return err
			}
		}
		for _, m := range plan.Modes() {
			w.sites[plan.Cell{Placement: place, Mode: m, Variant: v}] = site
		}
	}
	return nil
}

// answerTime bounds how long a service may take to be there for a client.
const answerTime = time.Minute

// awaitAnswer returns when the server answers at a site, and where node proxies are to
// carry the connections, when the client's has counted all of them as they are to be:
// before it knows the service it passes them on to kube-proxy.
func awaitAnswer(ctx context.Context, site Site, p plan.Plan, c plan.Cell) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	p.Warmup, p.Duration = 0, passWarmup
	for {
		t, _, err := runTrial(ctx, site, p, c)
		answered := err == nil && t.Client.Errors == 0 && t.Client.Requests > 0
		if answered && carried(site, t) {
			return nil
		}
		if until(ctx, time.Now().Add(time.Second)) != nil {
			if answered {
				return fmt.Errorf("the proxies of the nodes do not carry what goes to %s: %d of %d connections are counted between the identities of the pods",
					site.Address, *t.Redirected, t.Client.Connections)
			}
			return fmt.Errorf("the server does not answer at %s: %d errors in %d requests: %w", site.Address, t.Client.Errors, t.Client.Requests, errors.Join(err, ctx.Err()))
		}
	}
}

// carried says whether node proxies, where there are to be any, counted every connection
// of a trial.
func carried(site Site, t result.Trial) bool {
	return site.Proxies == nil || t.Redirected != nil && *t.Redirected == uint64(t.Client.Connections)
}

func (w *onCluster) site(c *kind.Cluster, s shape, client string) (Site, error) {
	target := scenario.Target{Pod: serverPod, Port: serverPort, Family: scenario.IPv4}
	if s.services > 0 {
		target = scenario.Target{Service: serviceName, Port: servicePort, Family: scenario.IPv4}
	}
	address, err := c.Resolve(target)
	if err != nil {
		return Site{}, err
	}
	from, err := loaded(c, client)
	if err != nil {
		return Site{}, err
	}
	to, err := loaded(c, serverPod)
	if err != nil {
		return Site{}, err
	}
	site := Site{
		Address: address.String(), ServerPort: serverPort, Via: s.via,
		Client: clusterPod{c, from}, Server: clusterPod{c, to},
	}
	if s.tunnelled {
		proxy, err := c.Pod(proxyPod)
		if err != nil {
			return Site{}, err
		}
		site.Proxy, site.ProxyPort = clusterPod{c, proxy}, ambient.HBONEPort
	}
	if s.mesh != scenario.Duomesh {
		return site, nil
	}
	exit := intent.Redirect
	if s.proxied() {
		proxy, err := c.Pod(proxyPod)
		if err != nil {
			return Site{}, err
		}
		site.Proxy, site.ProxyPort, exit = clusterPod{c, proxy}, scenario.HandOffPort, intent.RedirectWaypoint
	}
	progs, err := openPrograms(from.Cgroup, to.Cgroup)
	if err != nil {
		return Site{}, err
	}
	w.programs = append(w.programs, progs)
	site.Engine = clusterEngine{c, client, progs, exit}
	return site, nil
}

// loaded is a pod with the cgroup in which its load is born: what counts by cgroup does
// not look below.
func loaded(c *kind.Cluster, pod string) (scenario.PodHandle, error) {
	h, err := c.Pod(pod)
	if err != nil {
		return h, err
	}
	h.Cgroup, err = c.Birthplace(pod)
	return h, err
}

// Site implements World.
func (w *onCluster) Site(c plan.Cell) (Site, error) {
	site, ok := w.sites[c]
	if !ok {
		return Site{}, fmt.Errorf("no site for %s", c)
	}
	return site, nil
}

// Split implements Splitter, in a namespace of its own.
func (w *onCluster) Split(ctx context.Context, name string, seed uint64) report.Result {
	s, ok := scenario.Find(name)
	if !ok {
		return report.Result{Scenario: name, Verdict: report.Inconclusive, Reason: fmt.Sprintf("there is no scenario %s", name)}
	}
	return verify.Run(ctx, s, verify.Options{World: "kind", Open: kind.Opener(w.cfg)}, seed)
}

// Close implements World.
func (w *onCluster) Close() error {
	var errs []error
	for _, p := range w.programs {
		errs = append(errs, p.close())
	}
	for _, b := range w.behind {
		for _, asked := range b.asked {
			asked.Close()
		}
	}
	for _, c := range w.worlds {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// clusterPod is a pod of a cluster.
type clusterPod struct {
	cluster *kind.Cluster
	handle  scenario.PodHandle
}

// Start implements Pod.
func (p clusterPod) Start(ctx context.Context, name string, stdin, stdout *os.File) (Process, error) {
	proc, err := p.cluster.Start(ctx, p.handle.Name, name, stdin, stdout)
	if err != nil {
		return nil, err
	}
	return proc, nil
}

// CPU implements Pod.
func (p clusterPod) CPU() (time.Duration, error) { return cgroupCPU(p.handle.Cgroup) }

// Handle implements Pod.
func (p clusterPod) Handle() (scenario.PodHandle, bool) { return p.handle, true }

// clusterEngine is the mesh of a client's node, and its programs at both ends.
type clusterEngine struct {
	cluster  *kind.Cluster
	client   string
	programs *programs
	exit     intent.Exit
}

// Redirected implements Engine. What others on the node are redirected is in it, too.
func (e clusterEngine) Redirected() (uint64, error) {
	exits, err := e.cluster.Exits(context.Background(), e.client)
	return exits[string(e.exit)], err
}

// Programs implements Engine.
func (e clusterEngine) Programs() (result.Programs, error) { return e.programs.work() }

package netsim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/scenario"
)

// istiodFeed is the istiod of a control plane. What an agent is to have goes there by
// way of Kubernetes; here it is only known, to see when the agent has it.
type istiodFeed struct {
	plane *ControlPlane
	node  *node
	files IstiodFiles

	mu    sync.Mutex
	want  frontends
	known map[string]bool // every service that was ever put, by "namespace/name"
}

// IstiodFiles are what a node's agent is given of istiod, by path: the token that it
// shows and the roots that it trusts.
type IstiodFiles struct{ Token, Roots string }

func filesOf(cfg Config, n *node) IstiodFiles {
	return IstiodFiles{
		Token: filepath.Join(nodeDir(cfg, n), "istio-token"), Roots: filepath.Join(nodeDir(cfg, n), "root-cert.pem"),
	}
}

// IstiodFiles returns those of a node's agent, for those who want to see what it
// makes of wrong ones.
func (c *Cluster) IstiodFiles(node string) (IstiodFiles, error) {
	if c.plane == nil {
		return IstiodFiles{}, fmt.Errorf("%w: this cluster has no istiod", scenario.ErrNotExpressible)
	}
	for _, n := range c.nodes {
		if n.name == node {
			return filesOf(c.cfg, n), nil
		}
	}
	_, err := c.Node(node)
	return IstiodFiles{}, err
}

func (p *ControlPlane) newFeed(c *Cluster, n *node) *istiodFeed {
	return &istiodFeed{
		plane: p, node: n, files: filesOf(c.cfg, n), known: map[string]bool{},
	}
}

func (f *istiodFeed) args() []string {
	return []string{
		"--source", "xds:" + f.plane.stack.XDSAddress(), "--xds-roots", f.files.Roots, "--xds-token", f.files.Token,
	}
}

func (f *istiodFeed) env() []string {
	return []string{
		"POD_NAME=" + agentPod(f.node), "POD_NAMESPACE=" + controlplane.RootNamespace,
		"SERVICE_ACCOUNT=" + controlplane.NodeAccount, "INSTANCE_IP=" + nodeAddrs(f.node.index).IPv4.String(),
	}
}

func (f *istiodFeed) put(d *desired) error {
	want := frontendsOf(d, f.node.place)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.want = want
	for key := range want {
		f.known[key] = true
	}
	return nil
}

// istiodTime bounds how long a declared state may take to reach an agent.
const istiodTime = 30 * time.Second

// errNoIstiod is why a change reaches no agent.
var errNoIstiod = errors.New("istiod does not run: what is declared reaches no agent")

// goal is reached when the agent sends connections where they are to go, for every
// service that was ever put. While istiod is down, an agent that starts serves from
// what is pinned, and no other is ever where it is to be.
func (f *istiodFeed) goal(starts bool) goal {
	f.mu.Lock()
	want, known := f.want, maps.Clone(f.known)
	f.mu.Unlock()
	deadline := time.Now().Add(istiodTime)
	return func(ctx context.Context, c *api.Client) (bool, error) {
		s, err := c.Status(ctx, "")
		switch {
		case err != nil:
			return time.Now().After(deadline), err
		case s.Problem != "":
			return true, errors.New(s.Problem)
		case !f.plane.stack.IstiodRuns() && starts:
			return true, nil
		case !f.plane.stack.IstiodRuns():
			return true, errNoIstiod
		case s.Applied.Generation == 0:
			return time.Now().After(deadline), fmt.Errorf("it has no state yet: %s", trouble(s))
		}
		got, err := c.Endpoints(ctx)
		if err != nil {
			return time.Now().After(deadline), err
		}
		if diff := want.missing(got, known); diff != "" {
			return time.Now().After(deadline), fmt.Errorf("istiod's state is not there yet: %s (%s)", diff, trouble(s))
		}
		return true, nil
	}
}

// trouble is why there may be no newer state.
func trouble(s api.Status) string { return cmp.Or(s.Source.Error, s.Source.Lost) }

// frontends are where connections to services lead: by service, frontend and
// target, with the target's share.
type frontends map[string]map[string]map[netip.AddrPort]float64

func frontendsOf(d *desired, from intent.Place) frontends {
	all := frontends{}
	for _, s := range d.snapshot.Services {
		mine := map[string]map[netip.AddrPort]float64{}
		alone := intent.Snapshot{Services: []*intent.Service{s}}
		for _, a := range s.Addresses {
			for _, p := range s.Ports {
				f := intent.Frontend{Addr: a, Port: p.Port, Protocol: p.Protocol}
				got := intent.Decide(alone, intent.Caller{Managed: true, Place: from}, netip.AddrPortFrom(a, p.Port), p.Protocol)
				mine[f.String()] = shares(got.Targets)
			}
		}
		all[s.Key()] = mine
	}
	return all
}

func shares(targets []intent.Target) map[netip.AddrPort]float64 {
	sum, all := 0.0, map[netip.AddrPort]float64{}
	for _, t := range targets {
		sum += float64(t.Weight)
	}
	for _, t := range targets {
		all[t.Addr] += float64(t.Weight) / sum
	}
	return all
}

// missing says what an agent lacks, or has too much, of known services; "" when
// nothing. It may have a port for both protocols where it is to have one.
func (want frontends) missing(got api.Endpoints, known map[string]bool) string {
	have := frontends{}
	for _, f := range got.Frontends {
		if !known[f.Service] {
			continue
		}
		if have[f.Service] == nil {
			have[f.Service] = map[string]map[netip.AddrPort]float64{}
		}
		targets := map[netip.AddrPort]float64{}
		for _, t := range f.Targets {
			targets[t.Address] += t.Share
		}
		have[f.Service][f.Frontend] = targets
	}
	for key := range known {
		if diff := differ(want[key], have[key]); diff != "" {
			return "service " + key + ": " + diff
		}
	}
	return ""
}

func differ(want, have map[string]map[netip.AddrPort]float64) string {
	for f, targets := range want {
		got, ok := have[f]
		if !ok {
			return "no frontend " + f
		}
		if len(got) != len(targets) {
			return fmt.Sprintf("%s has %d targets, not %d", f, len(got), len(targets))
		}
		for to, share := range targets {
			if math.Abs(got[to]-share) > 1e-9 {
				return fmt.Sprintf("%s sends %g to %s, not %g", f, got[to], to, share)
			}
		}
	}
	ports := map[string]bool{}
	for f := range want {
		ports[withoutProtocol(f)] = true
	}
	for f := range have {
		if !ports[withoutProtocol(f)] {
			return "frontend " + f + " is too much"
		}
	}
	return ""
}

func withoutProtocol(frontend string) string {
	place, _, _ := strings.Cut(frontend, "/")
	return place
}

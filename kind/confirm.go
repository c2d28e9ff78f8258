package kind

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strings"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// targets are where connections go, with shares.
type targets map[netip.AddrPort]float64

// way is where a frontend leads.
type way struct {
	to       targets
	waypoint bool // to are replicas of one; none: it refuses
}

// confirmAgents returns when every agent sends connections to all services, those of
// before and those of now, where o says.
func (c *Cluster) confirmAgents(ctx context.Context, o scenario.Objects) error {
	return c.eachAgent(ctx, func(ctx context.Context, a agent) error {
		want := map[string]map[string]way{} // by service and frontend, without its protocol
		for _, s := range o.Services {
			want[s.Name] = c.frontends(o, s, a.node)
		}
		return cluster.Await(ctx, func(ctx context.Context) (string, error) {
			got, err := a.client.Endpoints(ctx)
			if err != nil {
				return "", err
			}
			return c.missing(want, got), nil
		})
	})
}

// frontends are those of a service, as callers of a node are to find them.
func (c *Cluster) frontends(o scenario.Objects, s scenario.Service, node string) map[string]way {
	all := map[string]way{}
	if s.Headless {
		return all // clients ask for its pods
	}
	for _, at := range c.vips.given[s.Name] {
		for _, port := range s.Ports {
			frontend := netip.AddrPortFrom(at, port.Port).String()
			if s.Waypoint != "" && port.Protocol != scenario.UDP {
				all[frontend] = way{c.handOffs(o, s.Waypoint, at, node), true}
				continue
			}
			all[frontend] = way{c.targets(o, s, port, at, node), false}
		}
	}
	return all
}

// handOffs are the replicas of a waypoint for callers of a node, at one of the addresses of
// its services. istiod's Service of a Gateway prefers the near ones: those of the caller's
// zone where there are any, else of its region, else all.
func (c *Cluster) handOffs(o scenario.Objects, waypoint string, at netip.Addr, node string) targets {
	var near []string
	best := 0
	for _, p := range c.gateways[waypoint].pods {
		shared := c.sites[node].shared(c.sites[c.pods[p].node])
		if shared > best {
			best, near = shared, nil
		}
		if shared == best {
			near = append(near, p)
		}
	}
	to := targets{}
	_, port := o.HandOff(waypoint)
	for _, p := range near {
		to[netip.AddrPortFrom(of(familyOf(at), c.pods[p].addrs), port)] = 1 / float64(len(near))
	}
	return to
}

func familyOf(at netip.Addr) scenario.Family {
	if at.Is6() {
		return scenario.IPv6
	}
	return scenario.IPv4
}

// targets are where a port of a service leads callers of a node, at one of its addresses.
func (c *Cluster) targets(o scenario.Objects, s scenario.Service, port scenario.Port, at netip.Addr, node string) targets {
	var near targets
	best := 0
	for _, e := range s.Endpoints {
		p := c.pods[e.Pod]
		target := targetOf(e, port, p.spec)
		if target == 0 || !chosen(o, s, e) || !hasFamily(p.spec, at) {
			continue
		}
		rank := c.rank(s.Balance, node, p.node)
		if s.Balance.Mode == intent.Strict && rank < sameNode {
			continue // by node: declarable refuses others
		}
		if near == nil || rank > best {
			near, best = targets{}, rank
		}
		if rank == best {
			near[netip.AddrPortFrom(of(familyOf(at), p.addrs), target)] += float64(e.Weight)
		}
	}
	total := 0.0
	for _, weight := range near {
		total += weight
	}
	for at := range near {
		near[at] /= total
	}
	return near
}

// missing says what an agent lacks, or has too much; "" when nothing.
func (c *Cluster) missing(want map[string]map[string]way, got api.Endpoints) string {
	have := map[string]map[string]api.Frontend{}
	for _, f := range got.Frontends {
		namespace, host, _ := strings.Cut(f.Service, "/")
		name, _, _ := strings.Cut(host, ".")
		if namespace != c.namespace || !c.known[name] {
			continue
		}
		if have[name] == nil {
			have[name] = map[string]api.Frontend{}
		}
		at, _, _ := strings.Cut(f.Frontend, "/")
		if strings.HasSuffix(f.Frontend, "/UDP") && have[name][at].Frontend != "" {
			continue // istiod names no protocol: TCP speaks for both
		}
		have[name][at] = f
	}
	for name := range c.known {
		if len(have[name]) != len(want[name]) {
			return fmt.Sprintf("service %s has %d frontends, not %d", name, len(have[name]), len(want[name]))
		}
		for at, to := range want[name] {
			if diff := differ(to, have[name][at]); diff != "" {
				return fmt.Sprintf("service %s: %s: %s", name, at, diff)
			}
		}
	}
	return ""
}

func differ(want way, have api.Frontend) string {
	if want.waypoint != strings.Contains(have.Exit, "waypoint") {
		return "it ends as " + have.Exit
	}
	got := targets{}
	for _, t := range have.Targets {
		got[t.Address] += t.Share
	}
	same := maps.EqualFunc(want.to, got, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
	if !same {
		return fmt.Sprintf("it leads to %v, not to %v (%s)", got, want.to, have.Exit)
	}
	return ""
}

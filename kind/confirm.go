package kind

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// targets are where a frontend leads, with shares; nil stands for a waypoint.
type targets map[netip.AddrPort]float64

// confirmAgents returns when every agent sends connections to all services, those of
// before and those of now, where o says.
func (c *Cluster) confirmAgents(ctx context.Context, o scenario.Objects) error {
	return c.eachAgent(ctx, func(ctx context.Context, a agent) error {
		want := map[string]map[string]targets{} // by service and frontend, without its protocol
		for _, s := range o.Services {
			want[s.Name] = c.frontends(s, a.node)
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
func (c *Cluster) frontends(s scenario.Service, node string) map[string]targets {
	all := map[string]targets{}
	if s.Headless {
		return all // clients ask for its pods
	}
	for _, at := range c.vips.given[s.Name] {
		for _, port := range s.Ports {
			frontend := netip.AddrPortFrom(at, port.Port).String()
			if s.Waypoint != "" && port.Protocol != scenario.UDP {
				all[frontend] = nil
				continue
			}
			all[frontend] = c.targets(s, port, at, node)
		}
	}
	return all
}

// targets are where a port of a service leads callers of a node, at one of its addresses.
func (c *Cluster) targets(s scenario.Service, port scenario.Port, at netip.Addr, node string) targets {
	family := scenario.IPv4
	if at.Is6() {
		family = scenario.IPv6
	}
	near := s.Endpoints
	if s.Balance.Mode == intent.Strict { // by node: declarable refuses others
		near = slices.DeleteFunc(slices.Clone(near), func(e scenario.Endpoint) bool { return c.pods[e.Pod].node != node })
	}
	total, to := 0.0, targets{}
	for _, e := range near {
		total += float64(e.Weight)
	}
	for _, e := range near {
		if e.Weight > 0 {
			to[netip.AddrPortFrom(of(family, c.pods[e.Pod].addrs), port.Target)] += float64(e.Weight) / total
		}
	}
	return to
}

// missing says what an agent lacks, or has too much; "" when nothing.
func (c *Cluster) missing(want map[string]map[string]targets, got api.Endpoints) string {
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

func differ(want targets, have api.Frontend) string {
	if want == nil {
		if !strings.Contains(have.Exit, "waypoint") || len(have.Targets) == 0 {
			return "it leads to no waypoint, but ends as " + have.Exit
		}
		return ""
	}
	got := targets{}
	for _, t := range have.Targets {
		got[t.Address] += t.Share
	}
	if !maps.EqualFunc(want, got, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
		return fmt.Sprintf("it leads to %v, not to %v (%s)", got, want, have.Exit)
	}
	return ""
}

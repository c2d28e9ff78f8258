package netsim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/scenario"
)

// wantedConfig is what a waypoint's Envoy must have before it has what was declared: by
// the name of a chain, its rules in their order.
type wantedConfig map[string][]wantedRoute

// wantedRoute is one rule: a header, and the share of each service by its host and port.
// Behind each are the pods that Envoy must know.
type wantedRoute struct {
	header, exact string
	shares        map[string]float64
	pods          map[string][]netip.Addr
}

// wantedOf is what is declared of the services that go through a waypoint.
func (c *Cluster) wantedOf(d *desired, waypoint string) wantedConfig {
	want := wantedConfig{}
	for _, s := range d.objects.Services {
		if s.Waypoint != waypoint {
			continue
		}
		for _, p := range s.Ports {
			if p.Protocol == scenario.UDP {
				continue
			}
			if !isWeb(p) {
				want[chainName("tcp", s.Name, p.Port)] = nil
				continue
			}
			want[chainName("http", s.Name, p.Port)] = c.wantedRoutes(d, s, p)
		}
	}
	return want
}

func isWeb(p scenario.Port) bool {
	kind, _, _ := strings.Cut(p.Name, "-")
	return slices.Contains([]string{"http", "http2", "grpc"}, kind)
}

func chainName(protocol, service string, port uint16) string {
	return fmt.Sprintf("inbound-vip|%d|%s|%s.%s.svc.cluster.local", port, protocol, service, namespace)
}

func destination(service string, port uint16) string {
	return fmt.Sprintf("%s.%s.svc.cluster.local:%d", service, namespace, port)
}

// leadsTo is the host and port of a cluster of istiod's: "inbound-vip|80|http|HOST" of a
// service that goes through this waypoint, "outbound|80||HOST" of others.
func leadsTo(cluster string) string {
	parts := strings.Split(cluster, "|")
	if len(parts) != 4 {
		return cluster
	}
	return parts[3] + ":" + parts[1]
}

func (c *Cluster) wantedRoutes(d *desired, s scenario.Service, p scenario.Port) []wantedRoute {
	if len(s.Routes) == 0 {
		name := destination(s.Name, p.Port)
		return []wantedRoute{{shares: map[string]float64{name: 1}, pods: map[string][]netip.Addr{name: c.livePods(d, s.Name)}}}
	}
	var all []wantedRoute
	for _, r := range s.Routes {
		w := wantedRoute{header: r.Header, exact: r.Exact, shares: map[string]float64{}, pods: map[string][]netip.Addr{}}
		sum := 0.0
		for _, b := range r.Backends {
			sum += float64(b.Weight)
		}
		for _, b := range r.Backends {
			if b.Weight == 0 {
				continue
			}
			name := destination(b.Service, b.Port)
			w.shares[name] += float64(b.Weight) / sum
			w.pods[name] = c.livePods(d, b.Service)
		}
		all = append(all, w)
	}
	return all
}

// livePods are the addresses of a service's endpoints, of its first family.
func (c *Cluster) livePods(d *desired, service string) []netip.Addr {
	var all []netip.Addr
	for _, s := range d.objects.Services {
		for _, e := range s.Endpoints {
			switch {
			case s.Name != service || e.Weight == 0:
			case s.Family == scenario.IPv6:
				all = append(all, c.pods[e.Pod].addrs.IPv6)
			default:
				all = append(all, c.pods[e.Pod].addrs.IPv4)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// dumped is as much of Envoy's configuration dump (its admin API, /config_dump) as is
// compared.
type dumped struct {
	Configs []struct {
		Listeners []struct {
			Name   string `json:"name"`
			Active struct {
				Listener struct {
					Chains []struct {
						Name string `json:"name"`
					} `json:"filter_chains"`
				} `json:"listener"`
			} `json:"active_state"`
		} `json:"dynamic_listeners"`
		Routes []struct {
			Config dumpedTable `json:"route_config"`
		} `json:"dynamic_route_configs"`
	} `json:"configs"`
}

type dumpedTable struct {
	Name  string `json:"name"`
	Hosts []struct {
		Routes []dumpedRoute `json:"routes"`
	} `json:"virtual_hosts"`
}

type dumpedRoute struct {
	Match struct {
		Headers []struct {
			Name  string `json:"name"`
			Match struct {
				Exact string `json:"exact"`
			} `json:"string_match"`
		} `json:"headers"`
	} `json:"match"`
	Route struct {
		Cluster  string `json:"cluster"`
		Weighted struct {
			Clusters []struct {
				Name   string  `json:"name"`
				Weight float64 `json:"weight"`
			} `json:"clusters"`
		} `json:"weighted_clusters"`
	} `json:"route"`
}

// missing says what a waypoint's Envoy lacks; "" when nothing.
func (want wantedConfig) missing(dump []byte) (string, error) {
	var d dumped
	if err := json.Unmarshal(dump, &d); err != nil {
		return "", fmt.Errorf("read the configuration of Envoy: %w", err)
	}
	chains, tables, pods := map[string]bool{}, map[string]dumpedTable{}, map[string][]netip.Addr{}
	for _, c := range d.Configs {
		for _, l := range c.Listeners {
			for _, chain := range l.Active.Listener.Chains {
				if l.Name == "handoff_direct" {
					chains[chain.Name] = true
				}
			}
		}
		for _, r := range c.Routes {
			tables[r.Config.Name] = r.Config
		}
	}
	endpoints, err := api.Endpoints(dump)
	if err != nil {
		return "", err
	}
	for cluster, addrs := range endpoints { // a service may have one of each kind: they have the same endpoints
		pods[leadsTo(cluster)] = addrs
	}
	for _, chain := range slices.Sorted(maps.Keys(want)) {
		if !chains[chain] {
			return "there is no chain " + chain, nil
		}
		if gap := differsFrom(want[chain], tables[chain], pods); gap != "" {
			return chain + ": " + gap, nil
		}
	}
	return "", nil
}

func differsFrom(want []wantedRoute, have dumpedTable, pods map[string][]netip.Addr) string {
	if len(want) == 0 {
		return ""
	}
	if len(have.Hosts) != 1 || len(have.Hosts[0].Routes) < len(want) {
		return fmt.Sprintf("it has not the %d rules that were declared", len(want))
	}
	for i, w := range want {
		if gap := w.differs(have.Hosts[0].Routes[i]); gap != "" {
			return fmt.Sprintf("rule %d: %s", i+1, gap)
		}
		for name, live := range w.pods {
			if !slices.Equal(live, pods[name]) {
				return fmt.Sprintf("%s has endpoints %v, not %v", name, pods[name], live)
			}
		}
	}
	return ""
}

func (w wantedRoute) differs(have dumpedRoute) string {
	header, exact := "", ""
	if h := have.Match.Headers; len(h) == 1 {
		header, exact = h[0].Name, h[0].Match.Exact
	}
	if header != w.header || exact != w.exact {
		return fmt.Sprintf("it selects %q=%q, not %q=%q", header, exact, w.header, w.exact)
	}
	got := map[string]float64{}
	if have.Route.Cluster != "" {
		got[leadsTo(have.Route.Cluster)] = 1
	}
	sum := 0.0
	for _, c := range have.Route.Weighted.Clusters {
		sum += c.Weight
	}
	for _, c := range have.Route.Weighted.Clusters {
		if c.Weight > 0 {
			got[leadsTo(c.Name)] += c.Weight / sum
		}
	}
	same := maps.EqualFunc(got, w.shares, func(a, b float64) bool { return math.Abs(a-b) < 1e-6 })
	if !same {
		return fmt.Sprintf("it leads to %v, not %v", got, w.shares)
	}
	return ""
}

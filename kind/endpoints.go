package kind

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/internal/scenario"
)

// endpoints are the pods that a waypoint's Envoy must know, no more and no fewer, by the
// host of each service of o that it leads to. Services whose endpoints depend on who asks,
// or that are looked up by name, are left out.
func (c *Cluster) endpoints(o scenario.Objects, waypoint string) map[string][]string {
	led := map[string]bool{}
	for _, s := range o.Services {
		if s.Waypoint != waypoint {
			continue
		}
		led[s.Name] = len(s.Routes) == 0
		for _, r := range s.Routes {
			for _, b := range r.Backends {
				led[b.Service] = led[b.Service] || b.Weight > 0
			}
		}
	}
	want := map[string][]string{}
	for _, s := range o.Services {
		byName := slices.ContainsFunc(s.Endpoints, func(e scenario.Endpoint) bool { return e.ByName })
		if !led[s.Name] || byName || s.Balance.Mode != intent.Any {
			continue
		}
		pods := []string{}
		for _, e := range s.Endpoints {
			if e.Weight > 0 && (s.PublishNotReady || !slices.Contains(o.Unready, e.Pod)) {
				pods = append(pods, e.Pod)
			}
		}
		slices.Sort(pods)
		want[fmt.Sprintf("%s.%s.svc.cluster.local", s.Name, c.namespace)] = slices.Compact(pods)
	}
	return want
}

// lacksEndpoints says what of want a waypoint's Envoy does not have, or has too much; ""
// when it is right. A host may have several clusters, each of which must have them.
func (c *Cluster) lacksEndpoints(dump []byte, want map[string][]string) (string, error) {
	clusters, err := api.Endpoints(dump)
	if err != nil {
		return "", err
	}
	for _, host := range slices.Sorted(maps.Keys(want)) {
		found := len(want[host]) == 0 // then it may have no cluster at all
		for name, addrs := range clusters {
			if name[strings.LastIndex(name, "|")+1:] != host {
				continue
			}
			found = true
			if have := c.podsAt(addrs); !slices.Equal(have, want[host]) {
				return fmt.Sprintf("its Envoy has for %s the endpoints %v, not %v", name, have, want[host]), nil
			}
		}
		if !found {
			return "its Envoy has no endpoints for " + host, nil
		}
	}
	return "", nil
}

// podsAt are the names of the pods that have the addresses, or an address that is no pod's.
func (c *Cluster) podsAt(addrs []netip.Addr) []string {
	names := []string{}
	for _, a := range addrs {
		name := a.String()
		for _, p := range c.pods {
			if slices.Contains(p.addrs, a) {
				name = p.spec.Name
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

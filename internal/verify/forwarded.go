package verify

import (
	"context"
	"net/netip"

	"github.com/duomesh/duomesh/internal/scenario"
)

// forwarded asks every waypoint of the world what it has done so far.
func (g *gatherer) forwarded(ctx context.Context) map[string]map[string]uint64 {
	w, can := g.world.(scenario.Forwarder)
	if !can {
		return nil
	}
	all := map[string]map[string]uint64{}
	for _, pod := range g.topology.Waypoints() {
		if n, known := w.Forwarded(ctx, pod); known {
			all[pod] = n
		}
	}
	return all
}

// increase is what was added of what is in both.
func increase(before, after map[string]map[string]uint64) map[string]map[string]uint64 {
	all := map[string]map[string]uint64{}
	for pod, now := range after {
		then, known := before[pod]
		if !known {
			continue
		}
		all[pod] = map[string]uint64{}
		for name, n := range now {
			all[pod][name] = n - then[name]
		}
	}
	return all
}

// replicas are the addresses of the pods of every waypoint that a load names.
func (g *gatherer) replicas(pods map[string]scenario.PodHandle) map[string]map[netip.Addr]string {
	all := map[string]map[netip.Addr]string{}
	for _, ph := range g.scenario.Phases {
		for _, l := range ph.Loads {
			wants := []scenario.Want{l.Want}
			if l.Then != nil {
				wants = append(wants, *l.Then)
			}
			for _, w := range wants {
				if w.Waypoint == "" || all[w.Waypoint] != nil {
					continue
				}
				at := map[netip.Addr]string{}
				for _, pod := range g.scenario.WaypointPods(w.Waypoint) {
					at[pods[pod].IPv4], at[pods[pod].IPv6] = pod, pod
				}
				all[w.Waypoint] = at
			}
		}
	}
	return all
}

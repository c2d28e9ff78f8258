package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/internal/scenario"
)

// tally is how many requests the waypoints of a world say they have sent on, by service.
type tally struct {
	by map[string]uint64
	// err is why one of them could not tell.
	err error
}

// forwarded asks every waypoint of the world what it has done so far.
func (g *gatherer) forwarded(ctx context.Context) tally {
	w, can := g.world.(scenario.Forwarder)
	if !can {
		return tally{err: errors.New("this world cannot ask waypoints")}
	}
	t := tally{by: map[string]uint64{}}
	for _, pod := range g.topology.Waypoints() {
		by, err := w.Forwarded(ctx, pod)
		if err != nil {
			t.err = errors.Join(t.err, fmt.Errorf("waypoint %s: %w", pod, err))
		}
		for service, n := range by {
			t.by[service] += n
		}
	}
	return t
}

// since is what was added after before.
func (t tally) since(before tally) tally {
	more := tally{by: map[string]uint64{}, err: errors.Join(before.err, t.err)}
	for service, n := range t.by {
		if n > before.by[service] {
			more.by[service] = n - before.by[service]
		}
	}
	return more
}

func (t tally) sum() uint64 {
	n := uint64(0)
	for _, one := range t.by {
		n += one
	}
	return n
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

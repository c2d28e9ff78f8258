package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/duomesh/duomesh/bench/follow"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/hops"
)

// followed are the modes in which one request is under way at a time: only then can it
// be followed.
var followed = []plan.Mode{plan.Closed, plan.NewConn}

// brokenDown follows the requests of every variant in the modes of the plan that allow
// it.
func brokenDown(ctx context.Context, w World, p plan.Plan) (all []result.Breakdown, err error) {
	p.Warmup = passWarmup
	for _, m := range followed {
		if !slices.Contains(p.Modes, m) {
			continue
		}
		for _, c := range passCells(p, m) {
			site, err := w.Site(c)
			if err != nil {
				return all, err
			}
			b, err := breakDown(ctx, site, p, c)
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			if err != nil {
				b = result.Breakdown{Reason: err.Error()}
			}
			b.Cell = c
			all = append(all, b)
		}
	}
	return all, nil
}

// roles are the cgroups of everything that a request passes, the client's and the
// server's first.
func (s Site) roles() (names []string, dirs []*os.File, err error) {
	client, ok := s.Client.Handle()
	server, ok2 := s.Server.Handle()
	if !ok || !ok2 {
		return nil, nil, errors.New("the pods cannot be observed")
	}
	names, dirs = []string{"client", "server"}, []*os.File{client.Cgroup, server.Cgroup}
	if s.Proxies != nil {
		own, cgroups, err := s.Proxies.Cgroups()
		if err != nil {
			return nil, nil, err
		}
		names, dirs = append(names, own...), append(dirs, cgroups...)
	}
	if s.Proxy != nil {
		if h, ok := s.Proxy.Handle(); ok {
			names, dirs = append(names, waypointName), append(dirs, h.Cgroup)
		}
	}
	return names, dirs, nil
}

// breakDown follows one trial.
func breakDown(ctx context.Context, site Site, p plan.Plan, c plan.Cell) (b result.Breakdown, err error) {
	names, dirs, err := site.roles()
	if err != nil {
		return b, err
	}
	pr, err := startPair(ctx, site, p, c.Mode)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, pr.close()) }()
	t, err := hops.Open(dirs...)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	before, err := site.packets()
	if err != nil {
		return b, err
	}
	start, err := pr.server.Counts()
	if err != nil {
		return b, err
	}
	if err := pr.client.Run(); err != nil {
		return b, err
	}
	events, lost, err := t.Stop()
	if err != nil {
		return b, err
	}
	after, err := site.packets()
	if err != nil {
		return b, err
	}
	end, err := pr.server.Counts()
	if err != nil {
		return b, err
	}
	if _, err := pr.client.Collect(); err != nil {
		return b, err
	}
	if lost > 0 {
		return b, fmt.Errorf("%d of %d events were lost", lost, lost+uint64(len(events)))
	}
	if b, err = follow.Break(events, names, !c.Mode.KeepAlive()); err != nil {
		return b, err
	}
	b.Packets = perRequest(before, after, end.Requests-start.Requests)
	return b, nil
}

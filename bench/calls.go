package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/probe/calls"
)

// called runs every variant once in each mode that keeps its connections, and
// counts the system calls of both pods.
func called(ctx context.Context, w World, p plan.Plan) (all []result.Called, err error) {
	p.Warmup = 0
	for _, m := range p.Modes {
		if !m.KeepAlive() {
			continue
		}
		for _, c := range passCells(p, m) {
			site, err := w.Site(c)
			if err != nil {
				return all, err
			}
			n, err := call(ctx, site, p, c)
			if ctx.Err() != nil {
				return all, ctx.Err()
			}
			if err != nil {
				n = result.Called{Cell: c, Reason: err.Error()}
			}
			all = append(all, n)
		}
	}
	return all, nil
}

// call counts over a whole trial, connecting included.
func call(ctx context.Context, site Site, p plan.Plan, c plan.Cell) (n result.Called, err error) {
	n.Cell = c
	client, ok := site.Client.Handle()
	server, ok2 := site.Server.Handle()
	if !ok || !ok2 {
		return n, errors.New("the pods cannot be observed")
	}
	pr, err := startPair(ctx, site, p, c.Mode)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, pr.close()) }()
	counter, err := calls.Open(client.Cgroup, server.Cgroup)
	if err != nil {
		return n, fmt.Errorf("count system calls: %w", err)
	}
	defer func() { err = errors.Join(err, counter.Close()) }()
	if err := pr.client.Run(); err != nil {
		return n, err
	}
	counts, err := counter.Counts()
	if err != nil {
		return n, err
	}
	if counts.Total() == 0 {
		return n, errors.New("not one was seen: the processes are not in the pods' cgroups")
	}
	n.Calls = counts
	r, err := pr.client.Collect()
	n.Requests = int64(r.Report.Requests)
	return n, err
}

package main

import (
	"context"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// openNetsim opens simulated pods as the world of a scenario.
func openNetsim(ctx context.Context, t scenario.Topology) (scenario.World, error) {
	c, err := netsim.Open(ctx, netsim.Config{}, t)
	if err != nil {
		return nil, err
	}
	return c, nil
}

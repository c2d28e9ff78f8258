package netsim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
)

// churn replaces the declared objects again and again at a steady rate, ends the
// agents that it is to end meanwhile, and returns when the last objects hold
// everywhere.
func (c *Cluster) churn(ctx context.Context, a scenario.Churn) error {
	if len(a.Between) == 0 || a.Changes < 1 || a.PerSecond < 1 {
		return errors.New("churn: no objects, no changes or no rate")
	}
	killers := make([]*agentMesh, len(a.Kill))
	for i, node := range a.Kill {
		var err error
		if killers[i], err = c.agentOf(node); err != nil {
			return fmt.Errorf("churn: %w", err)
		}
	}
	tick := time.NewTicker(time.Second / time.Duration(a.PerSecond))
	defer tick.Stop()
	for i := range a.Changes {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := c.hand(ctx, a.Between[i%len(a.Between)]); err != nil {
			return fmt.Errorf("churn: change %d: %w", i+1, err)
		}
		if a.KillEvery > 0 && (i+1)%a.KillEvery == 0 {
			if err := restart(ctx, killers); err != nil {
				return fmt.Errorf("churn: change %d: %w", i+1, err)
			}
		}
	}
	return c.Apply(ctx, a.Between[(a.Changes-1)%len(a.Between)])
}

// restart kills agents and starts them again.
func restart(ctx context.Context, agents []*agentMesh) error {
	for _, a := range agents {
		if err := errors.Join(a.kill(), a.start(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// hand gives objects to every node; an agent is not waited for.
func (c *Cluster) hand(ctx context.Context, o scenario.Objects) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	d, err := c.derive(c.current(), o)
	if err != nil {
		return err
	}
	if err := c.applyWaypoints(ctx, d); err != nil {
		return err
	}
	for _, n := range c.nodes {
		give := n.mesh.apply
		if a, ok := n.mesh.(*agentMesh); ok {
			give = func(_ context.Context, d *desired) error { return a.write(d) }
		}
		if err := give(ctx, d); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	c.mu.Lock()
	c.desired = d
	c.mu.Unlock()
	return nil
}

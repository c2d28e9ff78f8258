package netsim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
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
	if err := c.needAllServers(ctx, a.Between); err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	stop := c.watchAgents(ctx)
	defer stop()
	c.past.begin(c.current().objects, c.nodes)
	last, err := c.changeAll(ctx, a, killers)
	if err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	return c.Apply(ctx, last)
}

// changeAll hands out objects until there were enough, and returns the last ones.
func (c *Cluster) changeAll(ctx context.Context, a scenario.Churn, killers []*agentMesh) (scenario.Objects, error) {
	tick := time.NewTicker(time.Second / time.Duration(a.PerSecond))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return scenario.Objects{}, ctx.Err()
		}
		o := a.Between[i%len(a.Between)]
		if err := c.hand(ctx, o); err != nil {
			return o, fmt.Errorf("change %d: %w", i+1, err)
		}
		if a.KillEvery > 0 && (i+1)%a.KillEvery == 0 {
			if err := restart(ctx, killers); err != nil {
				return o, fmt.Errorf("change %d: %w", i+1, err)
			}
		}
		if i+1 >= a.Changes && isOver(a.Over) {
			return o, nil
		}
	}
}

// needAllServers returns when the servers of all endpoints listen: an endpoint of the
// next change must not be refused by its pod.
func (c *Cluster) needAllServers(ctx context.Context, between []scenario.Objects) error {
	c.applying.Lock()
	defer c.applying.Unlock()
	for _, o := range between {
		d, err := c.derive(c.current(), o)
		if err != nil {
			return err
		}
		if err := c.needServers(ctx, d.endpoints(netip.Addr{})); err != nil {
			return err
		}
	}
	return nil
}

func isOver(over <-chan struct{}) bool {
	if over == nil {
		return true
	}
	select {
	case <-over:
		return true
	default:
		return false
	}
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
	if err := c.declare(ctx, d); err != nil {
		return err
	}
	if err := c.applyWaypoints(ctx, d); err != nil {
		return err
	}
	state := c.past.hand(o)
	for _, n := range c.nodes {
		a, isAgent := n.mesh.(*agentMesh)
		if !isAgent {
			if err := n.mesh.apply(ctx, d); err != nil {
				return fmt.Errorf("node %s: %w", n.name, err)
			}
			c.past.applied(n.name, state)
			continue
		}
		if err := a.feed.put(d); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
		c.past.written(n.name, a.feed, state)
	}
	c.mu.Lock()
	c.desired = d
	c.mu.Unlock()
	return nil
}

// History implements scenario.Chronicler.
func (c *Cluster) History() []scenario.Held { return c.past.all() }

// past is which objects nodes had while they were churned.
type past struct {
	mu       sync.Mutex
	held     []scenario.Held
	versions map[string]map[string]int // node → version of its file → index in held
	untold   bool                      // a node does not tell which state it has
}

// begin notes the state before a churn, which every node has.
func (p *past) begin(o scenario.Objects, nodes []*node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := scenario.Held{Objects: o, Applied: map[string]int64{}}
	for _, n := range nodes {
		before.Applied[n.name] = traffic.Monotonic()
	}
	p.held, p.versions = append(p.held, before), map[string]map[string]int{}
}

// hand notes objects before any node is given them, and returns their place.
func (p *past) hand(o scenario.Objects) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = append(p.held, scenario.Held{Objects: o, Handed: traffic.Monotonic(), Applied: map[string]int64{}})
	return len(p.held) - 1
}

// versioned is a feed whose versions an agent tells apart.
type versioned interface{ last() string }

// written notes that a feed has a state. With one that has no versions nobody can
// tell when a node got it, and there is no history.
func (p *past) written(node string, from feed, state int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, tells := from.(versioned)
	if !tells {
		p.untold = true
		return
	}
	if p.versions[node] == nil {
		p.versions[node] = map[string]int{}
	}
	p.versions[node][v.last()] = state
}

// noChurn is the place of objects that are applied before any churn.
const noChurn = -1

// follow notes objects that are applied after a churn.
func (p *past) follow(o scenario.Objects) int {
	p.mu.Lock()
	churned := len(p.held) > 0
	p.mu.Unlock()
	if !churned {
		return noChurn
	}
	return p.hand(o)
}

// applied notes that a node's kernel has a state, now.
func (p *past) applied(node string, state int) {
	if state == noChurn {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.held[state].Applied[node]; !known {
		p.held[state].Applied[node] = traffic.Monotonic()
	}
}

// seen notes that a node's agent says that it has applied a version of its file.
func (p *past) seen(node, version string) {
	p.mu.Lock()
	state, known := p.versions[node][version]
	p.mu.Unlock()
	if known {
		p.applied(node, state)
	}
}

func (p *past) all() []scenario.Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.untold {
		return nil
	}
	return slices.Clone(p.held)
}

// watchEvery is how often agents are asked what they have applied during a churn.
const watchEvery = 10 * time.Millisecond

// watchAgents notes what the agents apply until stop is called.
func (c *Cluster) watchAgents(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		if a, is := n.mesh.(*agentMesh); is {
			wg.Go(func() { c.watchAgent(ctx, n.name, a) })
		}
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func (c *Cluster) watchAgent(ctx context.Context, node string, a *agentMesh) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		// One that is being killed does not answer.
		if s, err := a.client.Status(ctx, ""); err == nil && s.Source.Error == "" {
			c.past.seen(node, s.Source.Seen)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

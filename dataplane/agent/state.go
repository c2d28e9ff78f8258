package agent

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/admin"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// state is what the agent tells of itself.
type state struct {
	// applied gets a value after an Apply, for the audit.
	applied chan struct{}

	mu       sync.Mutex
	status   api.Status
	snapshot intent.Snapshot
	policies []*intent.Policy
	view     *admin.View   // of both, nil: not asked for yet
	newest   int           // number of the update that Source.Seen is of
	lost     int           // number of the update that Source.Lost is of
	changed  chan struct{} // closed and replaced at each change
}

func newState(cfg Config, started time.Time) *state {
	return &state{
		applied: make(chan struct{}, 1), changed: make(chan struct{}),
		status: api.Status{
			Node: cfg.Host.Place.Node, PID: os.Getpid(), Started: started,
			Source: api.Source{Name: cfg.Source},
		},
	}
}

// change runs f under the lock and wakes those who wait for a state.
func (s *state) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *state) get() (api.Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.changed
}

// applies returns what was applied last, and the policies that came with it.
func (s *state) applies() (intent.Snapshot, []*intent.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot, s.policies
}

// seen returns what follows from what was applied: worked out when somebody asks, and
// once.
func (s *state) seen() *admin.View {
	s.mu.Lock()
	view, snapshot, policies, generation := s.view, s.snapshot, s.policies, s.status.Applied.Generation
	s.mu.Unlock()
	if view != nil {
		return view
	}
	view = admin.NewView(snapshot, policies)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Applied.Generation == generation {
		s.view = view
	}
	return view
}

func (s *state) generation() uint64 {
	status, _ := s.get()
	return status.Applied.Generation
}

// sourceProblem says what keeps the source from being asked, or its state from being
// applied.
func (s *state) sourceProblem() string {
	status, _ := s.get()
	switch src := status.Source; {
	case src.Error != "":
		return src.Name + ": " + src.Error
	case src.Lost != "":
		return src.Name + ": " + src.Lost
	default:
		return src.Name + " has been asked"
	}
}

// await returns when a version of the source has been applied or refused.
func (s *state) await(ctx context.Context, seen string) error {
	for {
		status, changed := s.get()
		if status.Source.Seen == seen {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *state) fail(err error) { s.change(func() { s.status.Problem = err.Error() }) }

// audited takes what an audit found, and whether that could be repaired.
func (s *state) audited(found int, err error) {
	s.change(func() {
		a := &api.Audited{At: time.Now()}
		if before := s.status.Audit; before != nil {
			a.Repaired, a.RepairedAt = before.Repaired, before.RepairedAt
		}
		switch {
		case err != nil:
			a.Error, a.Differences = err.Error(), found
		case found > 0:
			a.Repaired, a.RepairedAt = a.Repaired+uint64(found), a.At
		}
		s.status.Audit = a
	})
}

// adminNode shows an agent on its admin API.
type adminNode struct{ *Agent }

// Engine implements admin.Node.
func (n adminNode) Engine() admin.Engine { return n.node }

// Place implements admin.Node.
func (n adminNode) Place() intent.Place { return n.cfg.Host.Place }

// Snapshot implements admin.Node.
func (n adminNode) Snapshot() intent.Snapshot {
	s, _ := n.state.applies()
	return s
}

// Policies implements admin.Policed.
func (n adminNode) Policies() []*intent.Policy {
	_, p := n.state.applies()
	return p
}

// Status implements admin.Node.
func (n adminNode) Status(ctx context.Context, seen string) (api.Status, error) {
	if seen != "" {
		if err := n.state.await(ctx, seen); err != nil {
			return api.Status{}, err
		}
	}
	s, _ := n.state.get()
	n.state.seen().Complete(&s)
	if n.cfg.Chain != nil {
		s.Chain = n.cfg.Chain()
	}
	s.Neighbours = admin.Neighbours(n.node.Neighbours())
	var err error
	s.Pods, s.Unknown, err = n.pods.list()
	return s, err
}

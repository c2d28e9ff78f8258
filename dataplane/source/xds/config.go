package xds

import (
	"log/slog"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/source/xds/names"
	"github.com/duomesh/duomesh/internal/istiod"
)

// Config says which istiod is asked, and as whom.
type Config struct {
	Server   istiod.Server
	Identity istiod.Identity
	// Network is the node's network; addresses of others are not used.
	Network string
	// Handoff is how connections are handed to waypoints whose Gateway does not say it;
	// empty means that nobody chose: intent.OriginalDst.
	Handoff intent.Codec
	// Handoffs brings what Gateways say of it, by "namespace/name"; nil: nobody does. The
	// first Update waits for it as for names.
	Handoffs <-chan map[string]string
	// RefuseUnenforced marks the workloads that policies name, so that connections
	// to them are refused (intent.Workload.Unprotected).
	RefuseUnenforced bool
	// Names says who resolves the workloads that are known by name only.
	Names names.Config
	// NameWait bounds how long the first Update waits until every name was
	// answered, and what Gateways say has come, so that a new agent does not take away for a moment what an earlier
	// one had; 0 means 1 s. No later one waits.
	NameWait time.Duration
	// Wait is the back-off between streams; the zero value is the usual one.
	Wait istiod.Backoff
	// Metrics counts what comes; nil counts nothing.
	Metrics *Metrics
	// Log gets trouble that heals by itself; nil discards.
	Log *slog.Logger
}

func (c Config) domain() string {
	if c.Identity.Domain != "" {
		return c.Identity.Domain
	}
	return istiod.DefaultDomain
}

func (c Config) handoff() intent.Codec {
	if c.Handoff != "" {
		return c.Handoff
	}
	return intent.OriginalDst
}

// Update is a new state, or why none comes. After an error the last Snapshot stays
// in force, and the source goes on trying.
type Update struct {
	Snapshot intent.Snapshot
	// Version counts the answers that are in the Snapshot.
	Version string
	Err     error
	// Unused lists what istiod asks for and this build does not do, a line each.
	Unused []string
	// Policies are those that istiod has sent, in the order of their names. None is
	// enforced.
	Policies []*intent.Policy
	// Received is when the first answer of istiod came that no Update had before.
	Received time.Time
}

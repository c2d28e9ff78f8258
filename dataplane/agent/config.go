package agent

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// Config is what an agent is given. It looks up nothing of its surroundings.
type Config struct {
	// Host is the node. Without Host.BPFFS the redirection ends with the agent.
	Host dataplane.Host
	// Engine tunes the engine.
	Engine dataplane.Options
	// Source names where Updates come from, for people.
	Source string
	// EnrolSocket is the path of the enrolment socket. Its directory is made
	// with mode 0700 when it is not there.
	EnrolSocket string
	// State is the file in which enrolments are kept by name for the next
	// agent. Its directory is made as that of EnrolSocket.
	State string
	// Admin is the address of the admin API, on the loopback; "" is none.
	Admin string
	// Metrics is the address of the metrics; "" is none.
	Metrics string
	// Collectors are served among the metrics, for example those of the source.
	Collectors []prometheus.Collector
	// Admission decides about pods that a CNI plugin brings; nil: those are
	// refused.
	Admission Admission
	// Chain says why the CNI plugin is not in the node's chain, "" when it is; nil: it is
	// not to be.
	Chain func() string
	// ResetExisting ends the connections that pods have when they are enrolled: those
	// are not redirected, and else stay as they are.
	ResetExisting bool
	// Audit is how often the kernel is compared with what was applied; 0 means
	// every 30 seconds.
	Audit time.Duration
	// Watch is how often the agent looks whether pods and the node's cgroup are
	// still there; 0 means every second.
	Watch time.Duration
	// Log gets what is worth a line; nil discards.
	Log *slog.Logger
}

// Admission knows the pods of a Kubernetes node. Its methods may be called
// concurrently.
type Admission interface {
	// Admit says whether a pod, "namespace/name", is to be managed. It fails when
	// it cannot know: the pod does not start then. api.ErrNotYet is in the chain when it
	// may know later.
	Admit(ctx context.Context, pod, uid string) (api.Verdict, error)
	// Cgroup returns the directory of the pod of a UID, an error that is
	// fs.ErrNotExist when there is none, or none yet.
	Cgroup(uid string) (string, error)
}

// Update is a new desired state, or why there is none.
type Update struct {
	Snapshot intent.Snapshot
	// Version is the source's name for this state, for example the digest of a
	// file. It is set with an error, too.
	Version string
	// Err is why the source has no state of this version. What was applied
	// before goes on.
	Err error
	// Lost is set instead where the source itself cannot be asked, or not any more: no
	// state was refused.
	Lost error
	// Unused lists what the source asks for and this build does not do, a line
	// each.
	Unused []string
	// Policies are those that the source has and that nobody enforces, in the order
	// of their names.
	Policies []*intent.Policy
	// Received is when the source heard of the oldest news in it; zero: unknown.
	Received time.Time
}

func (c Config) withDefaults() Config {
	if c.Audit == 0 {
		c.Audit = 30 * time.Second
	}
	if c.Watch == 0 {
		c.Watch = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Host.Log == nil {
		c.Host.Log = c.Log
	}
	return c
}

// onLoopback reports whether an address can be reached from its own host only.
func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

package l4

import (
	"log/slog"
	"os"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Host is the ground that an engine stands on. The caller opens it, owns it,
// and closes it after Engine.Close has returned.
type Host struct {
	// Cgroup is the directory of the node in a cgroup v2 hierarchy. Every
	// process of a managed pod runs below it.
	Cgroup *os.File
	// BPFFS is a directory of a BPF file system, where maps and links are
	// pinned so that they outlive the process. Empty: not pinned, and Close
	// ends the redirection.
	BPFFS string
	// Place is where the node stands. It decides which endpoints are near.
	Place intent.Place
	// Log gets what is worth a line but is no error; nil discards.
	Log *slog.Logger
}

// Options choose how an engine is built. The zero value is the default.
type Options struct {
	Limits Limits
	// HidePeer makes getpeername of a redirected socket answer the endpoint
	// and not the address that the application asked for. It saves the memory
	// and time of keeping that address.
	HidePeer bool
	// Force lets Open and Enrol go on where they would fail with RewrittenError.
	Force bool
}

// Limits are the numbers of entries that the maps can hold. A zero field means
// its default. An empty engine with the defaults takes under 8 MB; each entry
// of the first two takes the named bytes more, as it is written.
type Limits struct {
	// Managed is the number of enrolled pods: default 4096, 72 bytes each.
	Managed uint32
	// Frontends is the number of service addresses times their ports, and one
	// for each address: default 65536, 112 bytes each.
	Frontends uint32
	// Slots is the number of endpoints of all services, times the different
	// target-port mappings and address families of a service; while a service
	// is replaced, its old and new endpoints both count. Default 118784, taken
	// from the start: 48 bytes each.
	Slots uint32
	// LateFlows is the number of UDP flows that have ended and whose replies may
	// be on the way, of all pods together: default 2048, taken from the start,
	// about 120 bytes each.
	LateFlows uint32
	// Names is the number of service addresses times their TCP ports of services
	// with a waypoint: default 16384, 96 bytes each.
	Names uint32
	// Unsent is the number of connections to waypoints that want a header, from
	// when they are established until they have sent something: default 16384, 16
	// bytes each from the first such waypoint on, and 700 more while there is one.
	Unsent uint32
	// Waypoints is the number of waypoint pods of this node: default 256, 72 bytes
	// each.
	Waypoints uint32
}

// DefaultLimits has the defaults in place of zeros.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	if l.Managed == 0 {
		l.Managed = 4096
	}
	if l.Frontends == 0 {
		l.Frontends = 65536
	}
	if l.Slots == 0 {
		l.Slots = 118784
	}
	if l.Names == 0 {
		l.Names = 16384
	}
	if l.Unsent == 0 {
		l.Unsent = 16384
	}
	if l.Waypoints == 0 {
		l.Waypoints = 256
	}
	if l.LateFlows == 0 {
		l.LateFlows = 2048
	}
	return l
}

// Pod is a pod of this node. The descriptors stay the caller's.
type Pod struct {
	// Name is "namespace/name", as in intent.Workload; for people and for
	// finding the workload.
	Name string
	// Netns is the pod's network namespace.
	Netns *os.File
	// Cgroup is the pod's cgroup v2 directory, below Host.Cgroup.
	Cgroup *os.File
}

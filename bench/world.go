package bench

import (
	"context"
	"os"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/scenario"
)

// World is where the trials of a plan run. All its sites exist at once for the
// whole run, so that no variant has a machine of its own.
type World interface {
	// Site returns where a cell of the plan runs.
	Site(c plan.Cell) (Site, error)
	// Close takes everything down.
	Close() error
}

// Site is one client pod and one server pod, and what lies between.
type Site struct {
	// Address is host:port, as the client asks for it.
	Address string
	// ServerPort is where the server listens.
	ServerPort     uint16
	Client, Server Pod
	// Proxy is the pod of the Envoy between them; nil without one.
	Proxy Pod
	// ProxyPort is where connections arrive at it.
	ProxyPort uint16
	// Via is how connections are expected to come to the server.
	Via scenario.Via
	// Engine is the mesh on the client's node; nil when the variant has none.
	Engine Engine
	// Proxies are the node proxies between the pods; nil when there are none.
	Proxies Proxies
}

// Pod runs processes and knows their CPU time.
type Pod interface {
	// Start runs this executable again under another name, inside the pod. The
	// files stay the caller's. The process dies with ctx at the latest.
	Start(ctx context.Context, name string, stdin, stdout *os.File) (Process, error)
	// CPU is what all processes of the pod have used since it was made.
	CPU() (time.Duration, error)
	// Handle is what an observer needs; false where there is nothing to observe.
	Handle() (scenario.PodHandle, bool)
}

// Process is a running child.
type Process interface {
	// Wait waits for its end; nil for exit code 0.
	Wait() error
	// Stop ends it and waits.
	Stop(ctx context.Context)
}

// Engine is what the mesh itself can tell.
type Engine interface {
	// Redirected is how many connections it has redirected since it was opened.
	Redirected() (uint64, error)
	// Programs is what the kernel counted of its BPF programs; it stands still
	// unless BPF statistics are on.
	Programs() (result.Programs, error)
}

// Proxies are processes between client and server.
type Proxies interface {
	// CPU is what each has used since it was started, by its name.
	CPU() (map[string]time.Duration, error)
	// Cgroups are where they run, by the same names. The directories stay the World's.
	Cgroups() (names []string, dirs []*os.File, err error)
	// Opened is what each side's proxies have counted since they were started.
	Opened(ctx context.Context) ([]ambient.Opened, error)
	// Want is what a connection between the site's pods is to be counted as by the
	// client's side and by the server's, less the number. A waypoint between them has
	// fewer connections to the server, which it keeps.
	Want() (client, server ambient.Opened)
}

// Described is a World that can tell of the node proxies and waypoints in it.
type Described interface {
	Describe(ctx context.Context) ([]result.Proxy, error)
}

package netsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/admin"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

const adminSocket = "admin.sock"

// nodeDir is a node's directory in the cluster's run directory.
func nodeDir(cfg Config, n *node) string { return filepath.Join(cfg.dir(), n.name) }

// adminPlace is where the admin API of a node's engine is reached: an agent's in
// the node's namespace, else a socket that this process serves.
func (n *node) adminPlace(cfg Config) api.Place {
	if cfg.Agent != "" {
		return api.Place{Address: api.AdminAddress, Netns: fdPath(n.space.ns)}
	}
	return api.Place{Address: "unix:" + filepath.Join(nodeDir(cfg, n), adminSocket)}
}

// window shows an engine that lives in this process on the admin API. Only root
// reaches it: the run directory has mode 0700.
type window struct {
	node   *dataplane.Node
	place  intent.Place
	server *http.Server
	wg     sync.WaitGroup

	mu       sync.Mutex
	snapshot intent.Snapshot
	status   api.Status
	pods     map[string]api.Pod
}

func openWindow(path string, dp *dataplane.Node, place intent.Place) (*window, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	w := &window{
		node: dp, place: place, pods: map[string]api.Pod{},
		status: api.Status{
			Node: place.Node, PID: os.Getpid(), Started: time.Now(), Source: api.Source{Name: "netsim"},
		},
	}
	w.server = &http.Server{Handler: admin.NewHandler(w), ReadHeaderTimeout: time.Second}
	// Serve returns when the server is closed.
	w.wg.Go(func() { _ = w.server.Serve(l) })
	return w, nil
}

func (w *window) close() error {
	err := w.server.Close()
	w.wg.Wait()
	return err
}

func (w *window) applied(s intent.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snapshot = s
	w.status.Applied = admin.Applied(s, w.status.Applied.Generation+1, "")
}

// enrolled notes that a pod is managed, or not any more; older is how many connections
// it had made before.
func (w *window) enrolled(p *pod, in bool, older int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := podOf(p).Name
	if delete(w.pods, name); in {
		w.pods[name] = api.Pod{Name: name, Cgroup: p.cgroup.Name(), Watched: true, Older: older}
	}
}

// Engine implements admin.Node.
func (w *window) Engine() admin.Engine { return w.node }

// Place implements admin.Node.
func (w *window) Place() intent.Place { return w.place }

// Snapshot implements admin.Node.
func (w *window) Snapshot() intent.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.snapshot
}

// Status implements admin.Node. An engine without an agent has no source whose
// versions could be waited for.
func (w *window) Status(_ context.Context, seen string) (api.Status, error) {
	if seen != "" {
		return api.Status{}, errors.New("this node has no source to wait for")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	s.Pods = []api.Pod{}
	for _, p := range w.pods {
		s.Pods = append(s.Pods, p)
	}
	slices.SortFunc(s.Pods, func(a, b api.Pod) int { return strings.Compare(a.Name, b.Name) })
	s.Neighbours = admin.Neighbours(w.node.Neighbours())
	if s.Applied.Generation > 0 {
		found, err := w.node.Audit()
		if err != nil {
			return s, err
		}
		s.Audit = &api.Audited{At: time.Now(), Differences: len(found)}
	}
	return s, nil
}

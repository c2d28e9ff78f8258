package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/dataplane/source/file"
)

// fileOrders feed a waypoint by a file in its directory.
type fileOrders struct {
	waypoint *waypoint

	mu      sync.Mutex
	writes  int
	version string // of the file as last written
	serves  bool   // a service goes through it
}

func (f *fileOrders) path() string { return filepath.Join(f.waypoint.dir, intentFile) }

func (f *fileOrders) args() []string {
	return []string{"--source", "file:" + f.path(), "--name", waypointName(f.waypoint.pod), "--drain", "0"}
}

func (*fileOrders) env() []string { return nil }

// put replaces the waypoint's file. Each writing is a version of its own.
func (f *fileOrders) put(_ context.Context, d *desired) (run bool, err error) {
	s := d.forWaypoint(f.waypoint.pod)
	data, err := file.Marshal(s)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	data = fmt.Appendf(data, "# written %d times\n", f.writes)
	if err := os.WriteFile(f.path()+".new", data, 0o600); err != nil {
		return false, fmt.Errorf("write intent: %w", err)
	}
	if err := os.Rename(f.path()+".new", f.path()); err != nil {
		return false, fmt.Errorf("write intent: %w", err)
	}
	f.version = file.Version(data)
	f.serves = slices.ContainsFunc(s.Services, func(svc *intent.Service) bool { return svc.Waypoint != nil })
	return true, nil
}

// has: it has the file as last written and, when a service goes through it, takes
// connections.
func (f *fileOrders) has(ctx context.Context, c *api.Client) (bool, error) {
	f.mu.Lock()
	version, serves := f.version, f.serves
	f.mu.Unlock()
	s, err := c.Status(ctx, version)
	switch {
	case err != nil:
		return false, err
	case s.Source.Problem != "":
		return true, errors.New(s.Source.Problem)
	case s.Ready || !serves:
		return true, nil
	}
	return false, errors.New("it waits for " + s.Waiting)
}

func (*fileOrders) lost(context.Context) error { return nil }

func (*fileOrders) settle(context.Context, bool) (bool, error) { return false, nil }

package netsim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/source/file"
)

// feed is where a node's agent gets its state from.
type feed interface {
	// args and env are what the agent is started with for it.
	args() []string
	env() []string
	// put makes d what the agent is to have.
	put(d *desired) error
	// goal is that the agent has what was put last; of one that starts, that it serves
	// as well as it can now.
	goal(starts bool) goal
}

// goal asks an agent whether it is where it is to be. Where it is not, or cannot be
// asked, the error says why.
type goal func(ctx context.Context, c *api.Client) (reached bool, err error)

// fileFeed is a file in the node's directory.
type fileFeed struct {
	path string

	mu      sync.Mutex
	writes  int
	version string // of the file as last written
}

const intentFile = "intent.yaml"

func newFileFeed(dir string) *fileFeed { return &fileFeed{path: filepath.Join(dir, intentFile)} }

func (f *fileFeed) args() []string { return []string{"--source", "file:" + f.path} }
func (f *fileFeed) env() []string  { return nil }

// put replaces the file. Each writing is a version of its own: what is waited for
// is this one, not an equal one before.
func (f *fileFeed) put(d *desired) error {
	data, err := file.Marshal(d.snapshot)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	data = fmt.Appendf(data, "# written %d times\n", f.writes)
	if err := os.WriteFile(f.path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	f.version = file.Version(data)
	return nil
}

// last implements versioned.
func (f *fileFeed) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

func (f *fileFeed) goal(bool) goal {
	version := f.last()
	return func(ctx context.Context, c *api.Client) (bool, error) {
		s, err := c.Status(ctx, version)
		if err != nil {
			return false, err
		}
		return true, outcome(s)
	}
}

func outcome(s api.Status) error {
	switch {
	case s.Problem != "":
		return errors.New(s.Problem)
	case s.Source.Error != "":
		return errors.New(s.Source.Error)
	}
	return nil
}

package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Tree is a kernel on disk.
type Tree struct {
	// Image is the path of the bzImage.
	Image string
	// Modules is the directory lib/modules/RELEASE, or empty.
	Modules string
}

// ErrUnreachable is returned where a source cannot be had from this machine.
var ErrUnreachable = errors.New("source not reachable")

// Fetch brings a kernel into the cache directory, unless it is there, and
// returns it. goCommand is the go command, for Go modules.
func Fetch(ctx context.Context, s Source, cache, goCommand string) (Tree, error) {
	switch {
	case s.Deb != "":
		return fetchDeb(ctx, s, cache)
	case s.GoMod != "":
		return fetchGoMod(ctx, s.GoMod, goCommand)
	case s.Image != "":
		return fetchImage(ctx, s.Image, cache)
	}
	return treeOf(s.File, filepath.Dir(s.File))
}

// treeOf finds the modules of a kernel below root.
func treeOf(image, root string) (Tree, error) {
	if _, err := os.Stat(image); err != nil {
		return Tree{}, fmt.Errorf("kernel image: %w", err)
	}
	t := Tree{Image: image}
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		releases, err := filepath.Glob(filepath.Join(root, lib, "*"))
		if err != nil {
			return Tree{}, err
		}
		if len(releases) > 1 {
			return Tree{}, fmt.Errorf("%s has modules of %d kernels, must have one", filepath.Join(root, lib), len(releases))
		}
		if len(releases) == 1 {
			t.Modules = releases[0]
		}
	}
	return t, nil
}

func fetchGoMod(ctx context.Context, module, goCommand string) (Tree, error) {
	var m struct{ Dir, Error string }
	out, err := output(ctx, os.TempDir(), goCommand, "mod", "download", "-json", module)
	if jsonErr := json.Unmarshal(out, &m); jsonErr == nil && m.Error != "" {
		return Tree{}, fmt.Errorf("%w: Go module %s: %s", ErrUnreachable, module, m.Error)
	}
	if err != nil {
		return Tree{}, err
	}
	return treeOf(filepath.Join(m.Dir, "vmlinuz"), m.Dir)
}

// once fills a directory of the cache by fill, which gets one beside it: dir is
// there whole or not at all. One that has lost something since is filled anew.
func once(dir string, fill func(scratch string) error) error {
	if _, err := os.Stat(dir); err == nil {
		if whole(dir) {
			return nil
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("clear what is damaged in the cache: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	if err := sweepScratch(filepath.Dir(dir)); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(dir), scratchPrefix)
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(scratch)
	if err := fill(scratch); err != nil {
		return err
	}
	if err := seal(scratch); err != nil {
		return fmt.Errorf("fill cache: %w", err)
	}
	if err := os.Rename(scratch, dir); err != nil {
		if _, there := os.Stat(dir); there == nil {
			return nil // another run was faster
		}
		return fmt.Errorf("fill cache: %w", err)
	}
	return nil
}

// scratchPrefix begins the names of directories of the cache that are being filled;
// scratchAge is how old one is that nobody fills any more.
const (
	scratchPrefix = "fetch-"
	scratchAge    = 24 * time.Hour
)

// sweepScratch removes what killed runs have left in the cache.
func sweepScratch(cache string) error {
	dirs, err := filepath.Glob(filepath.Join(cache, scratchPrefix+"*"))
	if err != nil {
		return fmt.Errorf("list cache: %w", err)
	}
	for _, dir := range dirs {
		st, err := os.Stat(dir)
		if err == nil && time.Since(st.ModTime()) > scratchAge {
			err = os.RemoveAll(dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sweep cache: %w", err)
		}
	}
	return nil
}

// output runs a command and returns what it prints; its error has the last line
// of what it said.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/ambient"
)

// Tools are the programs that some variants need and that this one is not linked
// with; empty where there are none.
type Tools struct {
	// Waypoint is a duomesh-waypoint.
	Waypoint, Envoy string
	// Ztunnel is the path of one; without it its variants cannot be opened.
	Ztunnel string
}

// The names of programs in Environment.Programs.
const (
	envoyProgram   = "Envoy"
	ztunnelProgram = "ztunnel"
)

// Programs says of each foreign program that a plan runs which one it is: its own words
// for its version, and the beginning of its digest.
func (t Tools) Programs(ctx context.Context, p plan.Plan) (map[string]string, error) {
	all := map[string]string{}
	for _, x := range []struct {
		name, need, path string
		version          func(context.Context, string) (string, error)
	}{
		{envoyProgram, plan.NeedsEnvoy, t.Envoy, envoyVersion},
		{ztunnelProgram, plan.NeedsZtunnel, t.Ztunnel, ambient.Version},
	} {
		if !p.Needs(x.need) || x.path == "" {
			continue
		}
		version, err := x.version(ctx, x.path)
		if err != nil {
			return nil, err
		}
		digest, err := digestOf(x.path)
		if err != nil {
			return nil, err
		}
		all[x.name] = version + ", sha256 " + digest
	}
	return all, nil
}

// digestOf is the beginning of a file's SHA-256: enough to tell one from another.
func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read program %s: %w", path, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// versionPatience bounds the first start of a large program on a busy machine.
const versionPatience = 30 * time.Second

// envoyVersion is what an Envoy says of itself: commit, release and form of build.
func envoyVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	said, err := exec.CommandContext(ctx, path, "--version").Output()
	if err == nil && len(strings.Fields(string(said))) == 0 {
		err = errors.New("it says nothing")
	}
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	words := strings.Fields(string(said))
	return words[len(words)-1], nil
}

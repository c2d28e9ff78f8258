package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/ambient"
)

// noImage is what is named where no ztunnel is to be fetched.
const noImage = "none"

func (f *benchFlags) registerZtunnel(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.image, "ztunnel-image", cmp.Or(os.Getenv("ZTUNNEL_IMAGE"), ambient.Released),
		"take the ztunnel out of a container image, `NAME@sha256:DIGEST`; none fetches nothing ($ZTUNNEL_IMAGE)")
	flags.StringVar(&f.tools.Ztunnel, "ztunnel", os.Getenv("ZTUNNEL_BIN"), "`PATH` of a ztunnel, for the rows of Istio Ambient ($ZTUNNEL_BIN)")
}

// fetches says that the ztunnel, if one is needed, comes out of an image.
func (f *benchFlags) fetches() bool {
	return f.tools.Ztunnel == "" && f.image != "" && f.image != noImage && f.noZtunnel == ""
}

// hasZtunnel says that there is one, as far as is known.
func (f *benchFlags) hasZtunnel() bool { return f.tools.Ztunnel != "" || f.fetches() }

// released is the image that the ztunnel comes from.
func (f *benchFlags) released() (ambient.Image, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ambient.Image{}, fmt.Errorf("find the cache directory: %w", err)
	}
	return ambient.Image{
		Reference: f.image, Mirror: os.Getenv("DUOMESH_REGISTRY"), Cache: filepath.Join(cache, "duomesh"), Architecture: runtime.GOARCH,
	}, nil
}

// withoutZtunnel takes its rows out of a plan when there is none.
func (f *benchFlags) withoutZtunnel(p plan.Plan) (plan.Plan, error) {
	switch path := f.tools.Ztunnel; {
	case path != "":
		if _, err := os.Stat(path); err != nil {
			return p, usagef("--ztunnel: %v", err)
		}
	case f.fetches():
		if err := (ambient.Image{Reference: f.image}).Check(); err != nil {
			return p, usagef("--ztunnel-image: %v", err)
		}
	default:
		p = p.Without(plan.NeedsZtunnel, cmp.Or(f.noZtunnel, "no ztunnel binary: set ZTUNNEL_BIN or ZTUNNEL_IMAGE"))
	}
	return p, nil
}

// findZtunnel makes the path that was named an absolute one; where none was named and
// a plan needs the program, it takes it out of its image. Where that cannot be done
// f.noZtunnel says why: a plan that is then completed anew does without.
func (f *benchFlags) findZtunnel(ctx context.Context, p plan.Plan, progress io.Writer) error {
	if f.tools.Ztunnel != "" { // a name without a slash would be looked for in $PATH
		path, err := filepath.Abs(f.tools.Ztunnel)
		if err != nil {
			return fmt.Errorf("--ztunnel %s: %w", f.tools.Ztunnel, err)
		}
		f.tools.Ztunnel = path
	}
	if !p.Needs(plan.NeedsZtunnel) || !f.fetches() {
		return nil
	}
	image, err := f.released()
	if err != nil {
		return err
	}
	if _, there, err := image.Cached(); err == nil && !there {
		fmt.Fprintf(progress, "taking the ztunnel out of image %s (ZTUNNEL_BIN names yours, ZTUNNEL_IMAGE=none takes none)\n", f.image)
	}
	path, err := image.Extract(ctx)
	if err == nil {
		_, err = ambient.Version(ctx, path) // it may need libraries that are not here
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f.noZtunnel = fmt.Sprintf("no ztunnel binary (ZTUNNEL_BIN names one), and none can be had: %v", err)
		fmt.Fprintln(progress, f.noZtunnel)
		return nil
	}
	f.tools.Ztunnel = path
	return nil
}

// ztunnelState says where the ztunnel comes from that a variant needs; empty where it
// needs none, or one was named.
func (f *benchFlags) ztunnelState(v plan.Variant) (string, error) {
	if !v.Traits().Need(plan.NeedsZtunnel) || !f.fetches() {
		return "", nil
	}
	image, err := f.released()
	if err != nil {
		return "", err
	}
	if _, there, err := image.Cached(); there || err != nil {
		return "", err
	}
	return "can run where " + f.image + " can be fetched", nil
}

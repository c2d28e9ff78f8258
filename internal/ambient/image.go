package ambient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/duomesh/duomesh/internal/images"
)

// ztunnelInImage is where a released image has it.
const ztunnelInImage = "/usr/local/bin/ztunnel"

// Extract takes the ztunnel out of a container image into a cache directory, once,
// and returns its path. The reference must have a digest: what is measured must be
// the same program tomorrow.
func Extract(ctx context.Context, reference, cache, architecture string) (path string, err error) {
	ref, err := name.NewDigest(reference)
	if err != nil {
		return "", fmt.Errorf("image %s: a digest is needed (NAME@sha256:…): %w", reference, err)
	}
	path = filepath.Join(cache, "ztunnel-"+strings.TrimPrefix(ref.DigestStr(), "sha256:")+"-"+architecture)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	scratch, err := os.CreateTemp(cache, "ztunnel-*.part")
	if err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	defer os.Remove(scratch.Name()) // it is gone when all went well
	_, err = images.Registry{}.Take(ctx, images.Program{Image: reference, Path: ztunnelInImage, Architecture: architecture}, scratch)
	if err := errors.Join(err, scratch.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(scratch.Name(), path); err != nil {
		return "", fmt.Errorf("keep the ztunnel of image %s: %w", reference, err)
	}
	return path, nil
}

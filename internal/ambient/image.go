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

// Released is the ztunnel that is taken where none is named and a registry can be
// reached: an index with images for amd64 and arm64.
const Released = "docker.io/istio/ztunnel:1.30.2@sha256:64d7c4ea9621fdad66160744dcf76999995fcc0ac399d04aba76d6d0aae72242"

// ztunnelInImage is where a released image has it.
const ztunnelInImage = "/usr/local/bin/ztunnel"

// Image is a container image with a ztunnel.
type Image struct {
	// Reference must have a digest: what is measured must be the same program tomorrow.
	Reference string
	// Mirror is asked in place of the registry that the reference names; empty without.
	Mirror string
	// Cache is the directory where the program is kept.
	Cache string
	// Architecture is in Go's words.
	Architecture string
}

// Check returns why the reference cannot be used.
func (i Image) Check() error {
	_, err := i.digest()
	return err
}

func (i Image) digest() (string, error) {
	ref, err := name.NewDigest(i.Reference)
	if err != nil {
		return "", fmt.Errorf("image %s: a digest is needed (NAME@sha256:…): %w", i.Reference, err)
	}
	return strings.TrimPrefix(ref.DigestStr(), "sha256:"), nil
}

// Cached returns the path that the program has in the cache, and whether it is there.
func (i Image) Cached() (path string, there bool, err error) {
	digest, err := i.digest()
	if err != nil {
		return "", false, err
	}
	path = filepath.Join(i.Cache, "ztunnel-"+digest+"-"+i.Architecture)
	_, err = os.Stat(path)
	return path, err == nil, nil
}

// Extract takes the ztunnel out of the image into the cache, once, and returns its
// path. Where the registry does not answer the error is images.ErrUnreachable.
func (i Image) Extract(ctx context.Context) (path string, err error) {
	path, there, err := i.Cached()
	if there || err != nil {
		return path, err
	}
	if err := os.MkdirAll(i.Cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	scratch, err := os.CreateTemp(i.Cache, "ztunnel-*.part")
	if err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	defer os.Remove(scratch.Name()) // it is gone when all went well
	_, err = images.Registry{Mirror: i.Mirror}.Take(ctx, images.Program{Image: i.Reference, Path: ztunnelInImage, Architecture: i.Architecture}, scratch)
	if err := errors.Join(err, scratch.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(scratch.Name(), path); err != nil {
		return "", fmt.Errorf("keep the ztunnel of image %s: %w", i.Reference, err)
	}
	return path, nil
}

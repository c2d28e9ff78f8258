package ambient

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// ztunnelInImage is where a released image has it.
const ztunnelInImage = "usr/local/bin/ztunnel"

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
	image, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
	if err != nil {
		return "", fmt.Errorf("image %s: %w", reference, err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	scratch, err := os.CreateTemp(cache, "ztunnel-*.part")
	if err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	defer os.Remove(scratch.Name()) // it is gone when all went well
	err = errors.Join(copyFrom(image, ztunnelInImage, scratch), scratch.Chmod(0o755), scratch.Close())
	if err != nil {
		return "", fmt.Errorf("image %s: %w", reference, err)
	}
	if err := os.Rename(scratch.Name(), path); err != nil {
		return "", fmt.Errorf("keep the ztunnel of image %s: %w", reference, err)
	}
	return path, nil
}

// copyFrom writes one regular file of an image, and reads all of the image, so
// that its digest is checked.
func copyFrom(image v1.Image, file string, to io.Writer) error {
	all := mutate.Extract(image)
	defer all.Close()
	found := false
	for files := tar.NewReader(all); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		if h.Typeflag != tar.TypeReg || filepath.Clean(strings.TrimPrefix(h.Name, "/")) != file {
			continue
		}
		if _, err := io.Copy(to, files); err != nil {
			return fmt.Errorf("unpack %s: %w", file, err)
		}
		found = true
	}
	if _, err := io.Copy(io.Discard, all); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if !found {
		return fmt.Errorf("there is no %s in it", file)
	}
	return nil
}

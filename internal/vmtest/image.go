package vmtest

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

// fetchImage unpacks the kernel of a container image, of the digest that its tag
// has now.
func fetchImage(ctx context.Context, reference, cache string) (Tree, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return Tree{}, fmt.Errorf("kernel image: %w", err)
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return Tree{}, fmt.Errorf("%w: container image %s: %w", ErrUnreachable, reference, err)
	}
	digest, err := img.Digest()
	if err != nil {
		return Tree{}, fmt.Errorf("container image %s: %w", reference, err)
	}
	dir := filepath.Join(cache, "image-"+digest.Hex)
	if err := once(dir, func(scratch string) error { return unpackImage(img, scratch) }); err != nil {
		return Tree{}, fmt.Errorf("container image %s: %w", reference, err)
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz*"))
	if err != nil || len(images) != 1 {
		return Tree{}, fmt.Errorf("container image %s has %d files boot/vmlinuz*, must have one", reference, len(images))
	}
	return treeOf(images[0], dir)
}

// unpackImage writes the regular files below boot and lib/modules.
func unpackImage(img v1.Image, dir string) error {
	all := mutate.Extract(img)
	defer all.Close()
	for files := tar.NewReader(all); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return complete(all)
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		path := filepath.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(path) || !kernelFile(path) {
			continue
		}
		if err := writeFile(filepath.Join(dir, path), files); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
}

// complete reads what is behind the end of the archive: there an error of the
// image shows, a wrong digest or a name outside of it, for the archive itself is
// ended in order.
func complete(all io.Reader) error {
	if _, err := io.Copy(io.Discard, all); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return nil
}

func kernelFile(path string) bool {
	for _, top := range []string{"boot/", "lib/modules/", "usr/lib/modules/"} {
		if strings.HasPrefix(path, top) {
			return true
		}
	}
	return false
}

func writeFile(path string, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

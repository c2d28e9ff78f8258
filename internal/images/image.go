package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec is one image.
type Spec struct {
	// Name is the repository and tag.
	Name       string
	Entrypoint []string
	Cmd        []string
	// User is a number, or two with a colon; Kubernetes cannot tell whether a name
	// is root. "" is root.
	User  string
	Env   []string
	Files []File
}

// File is one entry of the image's only layer. Directories above it are made.
type File struct {
	// Path is absolute.
	Path string
	// Data is a file's content; Link makes it a symbolic link instead.
	Data []byte
	Link string
	Mode int64
	// Dir makes it a directory, for one that must be there and has no file.
	Dir bool
	// Static fails the build when the file needs a dynamic linker.
	Static bool
}

// epoch is the time of everything in an image.
var epoch = time.Unix(0, 0).UTC()

// Build makes an image for this machine's architecture.
func Build(s Spec) (v1.Image, error) {
	fail := func(err error) (v1.Image, error) { return nil, fmt.Errorf("image %s: %w", s.Name, err) }
	data, err := s.layer()
	if err != nil {
		return fail(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		return fail(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fail(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fail(err)
	}
	config = config.DeepCopy()
	config.Created, config.OS, config.Architecture = v1.Time{Time: epoch}, "linux", runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: s.Entrypoint, Cmd: s.Cmd, User: s.User,
		Env: append([]string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...),
	}
	for i := range config.History {
		config.History[i].Created = v1.Time{Time: epoch}
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return fail(err)
	}
	return img, nil
}

// Write puts an image into an archive, as `docker save` does.
func Write(path string, s Spec, img v1.Image) error {
	tag, err := name.NewTag(s.Name)
	if err != nil {
		return fmt.Errorf("image %s: %w", s.Name, err)
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		return fmt.Errorf("image %s: %w", s.Name, err)
	}
	return nil
}

// layer is the tar of the files, in the order of their paths.
func (s Spec) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	files, err := s.entries()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		h := &tar.Header{
			Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Size: int64(len(f.Data)),
			Typeflag: tar.TypeReg, ModTime: epoch, Format: tar.FormatPAX,
		}
		switch {
		case f.Dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// entries adds the directories, sorts, and refuses what cannot be.
func (s Spec) entries() ([]File, error) {
	all := map[string]File{}
	for _, f := range s.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path {
			return nil, fmt.Errorf("path %q is not absolute and clean", f.Path)
		}
		if _, twice := all[f.Path]; twice {
			return nil, fmt.Errorf("%s is there twice", f.Path)
		}
		if f.Static {
			if err := static(f.Data); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
		}
		all[f.Path] = f
	}
	for _, f := range s.Files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if have, ok := all[dir]; !ok {
				all[dir] = File{Path: dir, Dir: true, Mode: 0o755}
			} else if !have.Dir {
				return nil, fmt.Errorf("%s is below %s, which is no directory", f.Path, dir)
			}
		}
	}
	var sorted []File
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return sorted, nil
}

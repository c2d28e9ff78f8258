package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// manyLinks is how many links are followed, as by the kernel.
	manyLinks = 40
	// largest bounds a program, in bytes.
	largest = 1 << 30
	// Names of the OCI image specification, "Layer Filesystem Changeset".
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// extract copies one file of an image. Layers are read from the top, and none below
// the one that has the file; one that is read is read whole, so that its digest is
// checked. (mutate.Extract reads every layer, and does not know opaque directories.)
func extract(image v1.Image, file string, to *os.File, log func(string)) error {
	if !path.IsAbs(file) || path.Clean(file) != file || file == "/" {
		return fmt.Errorf("path %q is not absolute and clean", file)
	}
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("its layers: %w", err)
	}
	s := search{file: file[1:], layers: layers, top: len(layers), to: to, log: log}
	for range manyLinks {
		link, err := s.descend()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !link {
			return nil
		}
	}
	return fmt.Errorf("%s: more than %d links lead on from it", file, manyLinks)
}

// search is one for a file, by its path without the first slash.
type search struct {
	file   string
	layers []v1.Layer
	top    int // layers from here on do not count
	to     *os.File
	log    func(string)
}

// errNoFile says that an image does not have a path.
var errNoFile = errors.New("the image has no such file")

// descend goes down until a layer has the file. When that is a link it returns true,
// and the search is for what it leads to.
func (s *search) descend() (link bool, err error) {
	file := s.file
	directories := map[string]bool{} // above the file, in layers that were read
	for i, layer := range slices.Backward(s.layers[:s.top]) {
		digest, err := layer.Digest()
		if err != nil {
			return false, err
		}
		size, err := layer.Size()
		if err != nil {
			return false, err
		}
		s.log(fmt.Sprintf("layer %d of %d, %.1f MB", i+1, len(s.layers), float64(size)/1e6))
		l := look{file: file, to: s.to, directories: directories}
		switch err := l.read(layer); {
		case err != nil:
			return false, fmt.Errorf("layer %s: %w", digest, err)
		case l.found:
			return false, nil
		case l.hard:
			s.file, s.top = l.link, i+1
			return true, nil
		case l.link != "":
			s.file, s.top = l.link, len(s.layers)
			return true, nil
		case l.hidden:
			return false, s.missing(file)
		}
	}
	return false, s.missing(file)
}

func (s *search) missing(file string) error {
	return fmt.Errorf("%w (looked for /%s)", errNoFile, file)
}

// look is what one layer has of a file.
type look struct {
	file        string
	to          *os.File
	directories map[string]bool

	found  bool   // it was copied
	link   string // where else it is
	hard   bool   // in this layer, or below it
	hidden bool   // layers below do not count
}

// read reads a layer to its end: only there a wrong digest shows.
func (l *look) read(layer v1.Layer) error {
	all, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer all.Close()
	for entries := tar.NewReader(all); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = l.entry(h, entries)
		}
		if err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, all)
	return err
}

func (l *look) entry(h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dir, base := path.Split(name)
	switch {
	case base == opaque:
		l.hidden = l.hidden || strings.HasPrefix(l.file, dir)
	case strings.HasPrefix(base, whiteout):
		gone := dir + strings.TrimPrefix(base, whiteout)
		l.hidden = l.hidden || l.file == gone || strings.HasPrefix(l.file, gone+"/")
	case name == l.file:
		return l.itself(h, content)
	case name != "" && strings.HasPrefix(l.file, name+"/"):
		l.above(name, h)
	}
	return nil
}

// itself takes the file, or where it leads.
func (l *look) itself(h *tar.Header, content io.Reader) error {
	l.found, l.link, l.hard = false, "", false // of two the later counts
	switch h.Typeflag {
	case tar.TypeReg:
		if h.Size > largest {
			return fmt.Errorf("it has %d bytes, which is no program", h.Size)
		}
		if err := l.to.Truncate(0); err != nil {
			return err
		}
		l.found = true
		_, err := io.Copy(io.NewOffsetWriter(l.to, 0), content)
		return err
	case tar.TypeSymlink:
		l.link = leads(path.Dir(l.file), h.Linkname)
	case tar.TypeLink:
		l.link, l.hard = leads("", h.Linkname), true
	default:
		return fmt.Errorf("/%s is no regular file", l.file)
	}
	return nil
}

// above takes what a directory on the way to the file is.
func (l *look) above(name string, h *tar.Header) {
	switch {
	case h.Typeflag == tar.TypeDir:
		l.directories[name] = true
	case h.Typeflag == tar.TypeSymlink && !l.directories[name] && !l.found:
		l.link = leads(path.Dir(name), h.Linkname) + strings.TrimPrefix(l.file, name)
	default: // a file, or what is a directory in a layer above
		l.hidden = true
	}
}

// leads is where a link in a directory leads; none leads out of the image.
func leads(dir, link string) string {
	if path.IsAbs(link) {
		dir = ""
	}
	return strings.TrimPrefix(path.Join("/", dir, link), "/")
}

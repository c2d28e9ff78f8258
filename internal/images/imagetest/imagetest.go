// Package imagetest makes images, and registries that have them, for tests.
package imagetest

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Program is the header of a static program for an architecture in Go's words, which is
// all that is looked at, and a word to know it by.
func Program(tb testing.TB, architecture, word string) string {
	tb.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[architecture]
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var out bytes.Buffer
	must(tb, binary.Write(&out, binary.LittleEndian, h))
	return out.String() + word
}

// Entry is one of a layer: of a regular file Content is what is in it, else where it leads.
type Entry struct {
	Name, Content string
	Kind          byte // as in archive/tar
}

// Image is one for linux and an architecture, of layers from the lowest to the top.
func Image(tb testing.TB, architecture string, layers ...[]Entry) v1.Image {
	tb.Helper()
	image := empty.Image
	for _, entries := range layers {
		data := archive(tb, entries)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		must(tb, err)
		image, err = mutate.AppendLayers(image, layer)
		must(tb, err)
	}
	config, err := image.ConfigFile()
	must(tb, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	image, err = mutate.ConfigFile(image, config)
	must(tb, err)
	return image
}

func archive(tb testing.TB, entries []Entry) []byte {
	tb.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, e := range entries {
		h := tar.Header{Name: e.Name, Typeflag: e.Kind, Mode: 0o644, Linkname: e.Content}
		content := ""
		if e.Kind == tar.TypeReg {
			h.Size, h.Linkname, content = int64(len(e.Content)), "", e.Content
		}
		must(tb, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		must(tb, err)
	}
	must(tb, w.Close())
	return data.Bytes()
}

// Serve starts a registry, which ends with the test, and returns its address. Spoil,
// which may be nil, sits before it.
func Serve(tb testing.TB, spoil func(http.Handler) http.Handler) (host string) {
	tb.Helper()
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	if spoil != nil {
		handler = spoil(handler)
	}
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// Push puts an image where a reference says, and returns its digest.
func Push(tb testing.TB, reference string, image v1.Image) (digest string) {
	tb.Helper()
	ref, err := name.ParseReference(reference)
	must(tb, err)
	must(tb, remote.Write(ref, image))
	d, err := image.Digest()
	must(tb, err)
	return d.String()
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

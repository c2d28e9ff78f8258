package ambient

import (
	"archive/tar"
	"os"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/images/imagetest"
)

// pushed is an image with one file in a registry of the test's own, by its digest.
func pushed(t *testing.T, file, content string) string {
	t.Helper()
	at := imagetest.Serve(t, nil) + "/ztunnel"
	made := imagetest.Image(t, "amd64", []imagetest.Entry{{Name: file, Content: content, Kind: tar.TypeReg}})
	return at + "@" + imagetest.Push(t, at+":1", made)
}

func image(reference, cache string) Image {
	return Image{Reference: reference, Cache: cache, Architecture: "amd64"}
}

// TestReleasedHasADigest: what is taken unasked is one program for ever.
func TestReleasedHasADigest(t *testing.T) {
	if err := image(Released, "").Check(); err != nil {
		t.Error(err)
	}
}

func TestExtract(t *testing.T) {
	cache := t.TempDir()
	program := imagetest.Program(t, "amd64", "")
	ref := pushed(t, "usr/local/bin/ztunnel", program)
	path, err := image(ref, cache).Extract(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(b) != program || info.Mode().Perm() != 0o755 {
		t.Errorf("%q, %v, %v", b, err, info)
	}
	if at, there, err := image(ref, cache).Cached(); err != nil || !there || at != path {
		t.Errorf("in the cache: %s, %v, %v", at, there, err)
	}
	if again, err := image(ref, cache).Extract(t.Context()); err != nil || again != path {
		t.Errorf("a second time: %s, %v", again, err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 1 {
		t.Errorf("in the cache: %v, %v", left, err)
	}
}

func TestExtractRefuses(t *testing.T) {
	cache := t.TempDir()
	other := pushed(t, "bin/envoy", "another program")
	wrong := other[:len(other)-4] + "0000"
	for ref, want := range map[string]string{
		"registry.example/ztunnel:1.31": "a digest is needed",
		other:                           "/usr/local/bin/ztunnel: the image has no such file",
		wrong:                           "image " + wrong,
	} {
		if path, err := image(ref, cache).Extract(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %q, %v", ref, path, err)
		}
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

package vmtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// serve puts an image with files into a registry on the loopback interface.
func serve(t *testing.T, files map[string]string) (reference string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(server.Close)
	reference = strings.TrimPrefix(server.URL, "http://") + "/kernels:1"
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return reference
}

func TestFetchImage(t *testing.T) {
	ref := serve(t, map[string]string{
		"boot/vmlinuz-6.6.1": "kernel", "lib/modules/6.6.1/kernel/veth.ko": "module",
		"etc/passwd": "not a kernel's",
	})
	cache := t.TempDir()
	for range 2 { // from the registry, then from the cache
		tree, err := Fetch(t.Context(), Source{Image: ref}, cache, "go")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(tree.Image)
		if err != nil || string(text) != "kernel" || filepath.Base(tree.Modules) != "6.6.1" {
			t.Errorf("kernel %q, modules %s: %v", text, tree.Modules, err)
		}
		modules, err := readModules(tree.Modules)
		if err != nil || modules.files["veth"] == "" {
			t.Errorf("modules %v: %v", modules, err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(tree.Image), "..", "etc")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("more than the kernel was unpacked: %v", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(cache, "fetch-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
}

func TestFetchSaysWhatIsMissing(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	unsafe := serve(t, map[string]string{"boot/vmlinuz": "", "../../outside": "never"})
	noKernel := serve(t, map[string]string{"lib/modules/1/a.ko": ""})
	for says, s := range map[string]Source{
		"unsafe tar path":           {Image: unsafe},
		"has 0 files boot/vmlinuz*": {Image: noKernel},
		"kernel image":              {File: "/no/such/bzImage"},
		"source not reachable":      {Image: strings.Replace(noKernel, "kernels:1", "absent:1", 1)},
		"Go module":                 {GoMod: "example.invalid/no/such@v1.0.0"},
	} {
		_, err := Fetch(t.Context(), s, t.TempDir(), "go")
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", s, err, says)
		}
	}
}

func TestOnceIsWholeOrNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "kernel")
	broken := errors.New("broken")
	if err := once(dir, func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed fetch is in the cache: %v", err)
	}
	fills := 0
	for range 2 {
		if err := once(dir, func(string) error { fills++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if fills != 1 {
		t.Errorf("filled %d times, want once", fills)
	}
}

// A file of the cache that is shorter than it was, or gone, is fetched again.
func TestOnceNoticesDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "kernel")
	image := filepath.Join(dir, "vmlinuz")
	fill := func(scratch string) error {
		return os.WriteFile(filepath.Join(scratch, "vmlinuz"), []byte("kernel"), 0o644)
	}
	for _, damage := range []func() error{
		func() error { return nil },
		func() error { return os.Truncate(image, 3) },
		func() error { return os.Remove(image) },
		func() error { return os.Remove(filepath.Join(dir, sealFile)) },
	} {
		if err := once(dir, fill); err != nil {
			t.Fatal(err)
		}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if err := once(dir, fill); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(image); err != nil || string(text) != "kernel" {
			t.Errorf("%q, %v", text, err)
		}
	}
}

func TestOutputNamesTheCommand(t *testing.T) {
	_, err := output(context.Background(), "", "go", "no-such-verb")
	if err == nil || !strings.Contains(err.Error(), "go no-such-verb") || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("got %v", err)
	}
}

// What a killed run has left in the cache is removed, what another fills now is not.
func TestSweepScratch(t *testing.T) {
	cache := t.TempDir()
	left, filling := filepath.Join(cache, scratchPrefix+"1"), filepath.Join(cache, scratchPrefix+"2")
	for _, dir := range []string{left, filling} {
		if err := os.MkdirAll(filepath.Join(dir, "boot"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * scratchAge)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(cache, "kernel")
	if err := once(kernel, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
	for _, dir := range []string{filling, kernel} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

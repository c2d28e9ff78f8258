package strictyaml

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("a: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(t.Context(), path); err != nil || string(got) != "a: 1" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Read(t.Context(), filepath.Dir(path)); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: got %v", err)
	}
}

func TestReadIsBounded(t *testing.T) {
	if _, err := Read(t.Context(), "/dev/zero"); err == nil || !strings.Contains(err.Error(), "/dev/zero is larger than 67108864 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody writes: got %v", err)
	}
	// The goroutine that waits in open is let go, and sees a pipe that ends.
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

func TestReadPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(path, []byte("a: 1"), 0) }()
	got, err := Read(t.Context(), path)
	if err != nil || string(got) != "a: 1" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func spec(files ...File) Spec {
	return Spec{Name: "duomesh/test:1", Entrypoint: []string{"/bin/a"}, User: unprivileged, Files: files}
}

func digest(t *testing.T, s Spec) string {
	t.Helper()
	img, err := Build(s)
	must(t, err)
	d, err := img.Digest()
	must(t, err)
	return d.String()
}

func TestSameInputsSameDigest(t *testing.T) {
	a := File{Path: "/bin/a", Data: []byte("a"), Mode: 0o755}
	b := File{Path: "/etc/x/b", Data: []byte("b"), Mode: 0o644}
	first := digest(t, spec(a, b))
	if again := digest(t, spec(b, a)); again != first {
		t.Errorf("%s, and then %s", first, again)
	}
	changed := a
	changed.Data = []byte("c")
	other := a
	other.Mode = 0o700
	user := spec(a, b)
	user.User = ""
	for name, s := range map[string]Spec{"content": spec(changed, b), "mode": spec(other, b), "user": user} {
		if digest(t, s) == first {
			t.Errorf("another %s, the same digest", name)
		}
	}
}

func TestArchive(t *testing.T) {
	s := spec(
		File{Path: "/bin/a", Data: []byte("a"), Mode: 0o755}, File{Path: "/bin/b", Link: "a"}, File{Path: "/tmp", Dir: true, Mode: 0o1777},
	)
	img, err := Build(s)
	must(t, err)
	file := filepath.Join(t.TempDir(), "i.tar")
	must(t, Write(file, s, img))
	read, err := tarball.ImageFromPath(file, nil)
	must(t, err)
	config, err := read.ConfigFile()
	must(t, err)
	if config.Config.User != unprivileged || !slices.Equal(config.Config.Entrypoint, s.Entrypoint) || config.OS != "linux" {
		t.Errorf("the configuration is %+v", config.Config)
	}
	content := mutate.Extract(read)
	defer content.Close()
	var names []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Uid != 0 || !h.ModTime.Equal(epoch) {
			t.Errorf("%s is of user %d, %v", h.Name, h.Uid, h.ModTime)
		}
		names = append(names, h.Name+h.Linkname)
	}
	if got := strings.Join(names, " "); got != "bin bin/a bin/ba tmp" {
		t.Errorf("files are %s", got)
	}
}

// TestLayerIsWhole: a tar ends with two blocks of zeros; other readers than Go's
// insist.
func TestLayerIsWhole(t *testing.T) {
	data, err := spec(File{Path: "/bin/a", Data: []byte("a"), Mode: 0o755}).layer()
	must(t, err)
	if len(data)%512 != 0 || !bytes.HasSuffix(data, make([]byte, 1024)) {
		t.Errorf("%d bytes, which do not end as a tar", len(data))
	}
}

func TestBadFiles(t *testing.T) {
	a := File{Path: "/bin/a", Data: []byte("a")}
	for want, files := range map[string][]File{
		"/bin/a is there twice":       {a, a},
		`path "bin/a" is not abs`:     {{Path: "bin/a"}},
		`path "/bin/../a" is not abs`: {{Path: "/bin/../a"}},
		"which is no directory":       {a, {Path: "/bin/a/b"}},
		"it is no program":            {{Path: "/bin/a", Data: []byte("a"), Static: true}},
	} {
		if _, err := Build(spec(files...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestStatic tells this test, which is built without cgo, from a program of the
// system.
func TestStatic(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	if err := static(self); err != nil {
		t.Skipf("NOT RUN: this test is not static itself: %v", err)
	}
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	dynamic, err := os.ReadFile(shell)
	must(t, err)
	_, err = Build(spec(File{Path: "/bin/a", Data: dynamic, Static: true}))
	if err == nil || !strings.Contains(err.Error(), "/bin/a: it is not static") {
		t.Errorf("a dynamic program: %v", err)
	}
}

// TestClosure takes a program of this machine with its libraries, and runs it from
// them alone.
func TestClosure(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	files, err := Closure("/", map[string]string{"/bin/sh": shell})
	must(t, err)
	root := t.TempDir()
	linker := ""
	for _, f := range files {
		at := filepath.Join(root, f.Path)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		must(t, os.WriteFile(at, f.Data, 0o755))
		if strings.Contains(f.Path, "/ld-") {
			linker = at
		}
	}
	if len(files) < 3 || linker == "" {
		t.Fatalf("only %d files", len(files))
	}
	out, err := exec.Command(linker, "--library-path", filepath.Join(root, "usr/lib"), filepath.Join(root, "bin/sh"), "-c", "echo ran").CombinedOutput()
	if err != nil || string(out) != "ran\n" {
		t.Errorf("%s, %v", out, err)
	}
	_, err = Closure(t.TempDir(), map[string]string{"/bin/sh": shell})
	if err == nil || !strings.Contains(err.Error(), "/bin/sh needs ") {
		t.Errorf("without libraries: %v", err)
	}
}

// TestAll names what cannot be built.
func TestAll(t *testing.T) {
	bin := t.TempDir()
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	if static(self) != nil {
		t.Skip("NOT RUN: this test is not static itself")
	}
	for _, name := range []string{"duomesh-agent", "duomesh-cni"} {
		must(t, os.WriteFile(filepath.Join(bin, name), self, 0o755))
	}
	specs, left, err := All(Sources{Bin: bin, Root: t.TempDir(), Tag: "1"})
	must(t, err)
	if len(specs) != 1 || specs[0].Name != "duomesh/duomesh-agent:1" {
		t.Errorf("images are %v", specs)
	}
	if len(left) != 4 {
		t.Errorf("left are %v", left)
	}
	img, err := Build(specs[0])
	must(t, err)
	if _, err := img.Digest(); err != nil {
		t.Error(err)
	}
	if _, _, err := All(Sources{Bin: "\x00", Tag: "1"}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sources that cannot be read: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

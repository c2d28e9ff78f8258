package images

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// elfOf is the header of a program for a machine, and a word to know it by.
func elfOf(m elf.Machine, word string) string {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(m), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var out bytes.Buffer
	_ = binary.Write(&out, binary.LittleEndian, h)
	return out.String() + word
}

func program(word string) string { return elfOf(elf.EM_X86_64, word) }

// entry is one of a layer: a file, or by its type a directory or a link.
type entry struct {
	name, content string
	kind          byte
}

func file(name, word string) entry { return entry{name, program(word), tar.TypeReg} }
func gone(name string) entry       { return entry{name, "", tar.TypeReg} }
func link(name, to string) entry   { return entry{name, to, tar.TypeSymlink} }

// layers makes an image for linux/amd64 of layers from the lowest to the top.
func layers(t *testing.T, all ...[]entry) v1.Image {
	t.Helper()
	img := empty.Image
	for _, entries := range all {
		var data bytes.Buffer
		w := tar.NewWriter(&data)
		for _, e := range entries {
			h := tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644}
			if e.kind == tar.TypeReg {
				h.Size = int64(len(e.content))
			} else {
				h.Linkname = e.content
			}
			must(t, w.WriteHeader(&h))
			if e.kind == tar.TypeReg {
				_, err := io.WriteString(w, e.content)
				must(t, err)
			}
		}
		must(t, w.Close())
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data.Bytes())), nil })
		must(t, err)
		img, err = mutate.AppendLayers(img, layer)
		must(t, err)
	}
	config, err := img.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, config)
	must(t, err)
	return img
}

// serve is a registry of the test's own; spoil, which may be nil, sits before it.
func serve(t *testing.T, spoil func(http.Handler) http.Handler) (host string) {
	t.Helper()
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	if spoil != nil {
		handler = spoil(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func push(t *testing.T, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	must(t, err)
	must(t, remote.Write(ref, img))
}

// take is Take into a file of the test's own; content is what is in it after.
func take(t *testing.T, ctx context.Context, r Registry, p Program) (content, taken string, err error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "program"))
	must(t, err)
	defer f.Close()
	if p.Architecture == "" {
		p.Architecture = "amd64"
	}
	taken, err = r.Take(ctx, p, f)
	if err == nil {
		b, err := os.ReadFile(f.Name())
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		if info.Mode().Perm() != 0o755 {
			t.Errorf("its mode is %v", info.Mode())
		}
		content = string(b)
	}
	return content, taken, err
}

// TestTakeFromLayers: what a container of the image would have at the path.
func TestTakeFromLayers(t *testing.T) {
	host := serve(t, nil)
	dir := func(name string) entry { return entry{name, "", tar.TypeDir} }
	const at = "/usr/local/bin/p"
	for what, c := range map[string]struct {
		image v1.Image
		want  string // the word, or of the error
	}{
		"one layer":          {layers(t, []entry{dir("usr/"), file("usr/local/bin/p", "A")}), "A"},
		"dot before":         {layers(t, []entry{file("./usr/local/bin/p", "A")}), "A"},
		"the upper counts":   {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{file("usr/local/bin/p", "B")}), "B"},
		"the later counts":   {layers(t, []entry{file("usr/local/bin/p", "AAAA"), file("usr/local/bin/p", "B")}), "B"},
		"a lower one":        {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{file("etc/x", "B"), gone("usr/local/bin/.wh.q")}), "A"},
		"whiteout":           {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{gone("usr/local/bin/.wh.p")}), "no such file"},
		"whiteout above":     {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{gone("usr/.wh.local")}), "no such file"},
		"opaque":             {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{gone("usr/local/.wh..wh..opq")}), "no such file"},
		"opaque, and anew":   {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{file("usr/local/bin/p", "B"), gone("usr/local/.wh..wh..opq")}), "B"},
		"whiteout, and anew": {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{gone("usr/local/bin/.wh.p")}, []entry{file("usr/local/bin/p", "B")}), "B"},
		"link beside it":     {layers(t, []entry{file("usr/local/bin/p-1.2", "A"), link("usr/local/bin/p", "p-1.2")}), "A"},
		"link, absolute":     {layers(t, []entry{link("usr/local/bin/p", "/opt/p")}, []entry{file("opt/p", "A")}), "A"},
		"link upwards":       {layers(t, []entry{file("usr/lib/p", "A")}, []entry{link("usr/local/bin/p", "../../lib/p")}), "A"},
		"link out of it":     {layers(t, []entry{link("usr/local/bin/p", "../../../../../../etc/passwd")}), "no such file (looked for /etc/passwd)"},
		"link in a circle":   {layers(t, []entry{link("usr/local/bin/p", "q"), link("usr/local/bin/q", "p")}), "more than 40 links"},
		"directory is link":  {layers(t, []entry{file("usr/bin/p", "A"), link("usr/local", "/usr")}), "A"},
		"link covered":       {layers(t, []entry{file("usr/bin/p", "A"), link("usr/local", "/usr")}, []entry{dir("usr/local/")}), "no such file"},
		"hard link": {layers(t,
			[]entry{file("opt/p", "A"), {"usr/local/bin/p", "opt/p", tar.TypeLink}}, []entry{file("opt/p", "B")}), "A"},
		"a file above":   {layers(t, []entry{file("usr/local/bin/p", "A")}, []entry{file("usr/local", "B")}), "no such file"},
		"a directory":    {layers(t, []entry{dir("usr/local/bin/p")}), "is no regular file"},
		"another path":   {layers(t, []entry{file("usr/bin/p", "A")}), "no such file (looked for /usr/local/bin/p)"},
		"no layer":       {layers(t), "no such file"},
		"no program":     {layers(t, []entry{{"usr/local/bin/p", "#!/bin/sh", tar.TypeReg}}), "it is no program"},
		"another binary": {layers(t, []entry{{"usr/local/bin/p", elfOf(elf.EM_AARCH64, "A"), tar.TypeReg}}), "it is a program for EM_AARCH64, not for amd64"},
	} {
		t.Run(what, func(t *testing.T) {
			image := host + "/" + strings.Map(func(r rune) rune {
				if r < 'a' || r > 'z' {
					return '-'
				}
				return r
			}, what) + ":1"
			push(t, image, c.image)
			content, taken, err := take(t, t.Context(), Registry{}, Program{Image: image, Path: at})
			if len(c.want) > 1 {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), image) {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			must(t, err)
			digest, err := c.image.Digest()
			must(t, err)
			if content != program(c.want) || taken != image+"@"+digest.String() {
				t.Errorf("%q of %s", content, taken)
			}
			again, taken, err := take(t, t.Context(), Registry{}, Program{Image: taken, Path: at})
			if err != nil || again != content || !strings.Contains(taken, digest.String()) {
				t.Errorf("by that digest: %q of %s, %v", again, taken, err)
			}
		})
	}
}

// TestTakeFromIndex takes the image of the platform.
func TestTakeFromIndex(t *testing.T) {
	host := serve(t, nil)
	add := func(arch string, m elf.Machine) mutate.IndexAddendum {
		img := layers(t, []entry{{"p", elfOf(m, arch), tar.TypeReg}})
		config, err := img.ConfigFile()
		must(t, err)
		config = config.DeepCopy()
		config.Architecture = arch
		img, err = mutate.ConfigFile(img, config)
		must(t, err)
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	both := mutate.AppendManifests(empty.Index, add("amd64", elf.EM_X86_64), add("arm64", elf.EM_AARCH64))
	ref, err := name.ParseReference(host + "/both:1")
	must(t, err)
	must(t, remote.WriteIndex(ref, both))
	for _, arch := range []string{"amd64", "arm64"} {
		content, _, err := take(t, t.Context(), Registry{}, Program{Image: ref.Name(), Path: "/p", Architecture: arch})
		if err != nil || !strings.HasSuffix(content, arch) {
			t.Errorf("%s: %q, %v", arch, content, err)
		}
	}
	_, _, err = take(t, t.Context(), Registry{}, Program{Image: ref.Name(), Path: "/p", Architecture: "s390x"})
	if err == nil || !strings.Contains(err.Error(), "for linux/s390x") {
		t.Errorf("another: %v", err)
	}
	push(t, host+"/one:1", layers(t, []entry{file("p", "A")}))
	_, _, err = take(t, t.Context(), Registry{}, Program{Image: host + "/one:1", Path: "/p", Architecture: "arm64"})
	if err == nil || !strings.Contains(err.Error(), "it is for linux/amd64, not linux/arm64") {
		t.Errorf("an image that has one platform: %v", err)
	}
}

// TestTakeReadsNoMoreThanItMust: a layer below the one that has the file is not
// fetched.
func TestTakeReadsNoMoreThanItMust(t *testing.T) {
	img := layers(t, []entry{file("base", "large")}, []entry{file("p", "A")})
	all, err := img.Layers()
	must(t, err)
	base, err := all[0].Digest()
	must(t, err)
	asked := make(chan string, 100)
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodGet {
				asked <- q.URL.Path
			}
			next.ServeHTTP(w, q)
		})
	})
	push(t, host+"/x:1", img)
	_, _, err = take(t, t.Context(), Registry{}, Program{Image: host + "/x:1", Path: "/p"})
	must(t, err)
	close(asked)
	for path := range asked {
		if strings.HasSuffix(path, base.String()) {
			t.Errorf("the layer below was fetched")
		}
	}
}

func TestTakeByMirror(t *testing.T) {
	host := serve(t, nil)
	img := layers(t, []entry{file("p", "A")})
	push(t, host+"/k/istio/pilot:1.31.1", img)
	digest, err := img.Digest()
	must(t, err)
	for _, image := range []string{"docker.io/istio/pilot:1.31.1", "registry.example/istio/pilot@" + digest.String()} {
		content, taken, err := take(t, t.Context(), Registry{Mirror: host + "/k/"}, Program{Image: image, Path: "/p"})
		if err != nil || content != program("A") || !strings.HasPrefix(taken, host+"/k/istio/pilot") {
			t.Errorf("%s: %q of %s, %v", image, content, taken, err)
		}
	}
}

// TestTakeStatic: this machine's shell is not.
func TestTakeStatic(t *testing.T) {
	shell, err := os.ReadFile("/bin/sh")
	if err != nil || static(shell) == nil {
		t.Skip("NOT RUN: there is no dynamic program at /bin/sh")
	}
	f, err := elf.NewFile(bytes.NewReader(shell))
	must(t, err)
	if f.Machine != elf.EM_X86_64 {
		t.Skip("NOT RUN: this machine is not an x86-64")
	}
	host := serve(t, nil)
	push(t, host+"/x:1", layers(t, []entry{{"sh", string(shell), tar.TypeReg}}))
	p := Program{Image: host + "/x:1", Path: "/sh"}
	if _, _, err := take(t, t.Context(), Registry{}, p); err != nil {
		t.Error(err)
	}
	p.Static = true
	if _, _, err := take(t, t.Context(), Registry{}, p); err == nil || !strings.Contains(err.Error(), "it is not static") {
		t.Errorf("got %v", err)
	}
}

// spoilBlobs changes what the registry answers for blobs of more than one kilobyte.
func spoilBlobs(spoil func([]byte) []byte) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method != http.MethodGet || !strings.Contains(q.URL.Path, "/blobs/sha256") {
				next.ServeHTTP(w, q)
				return
			}
			kept := httptest.NewRecorder()
			next.ServeHTTP(kept, q)
			body := kept.Body.Bytes()
			if len(body) > 1000 {
				body = spoil(body)
			}
			w.WriteHeader(kept.Code)
			_, _ = w.Write(body)
		})
	}
}

func TestTakeRefusesWhatIsNotWhole(t *testing.T) {
	img := layers(t, []entry{file("p", noise(64*1024, 1))})
	other := layers(t, []entry{file("p", noise(64*1024, 2))})
	all, err := other.Layers()
	must(t, err)
	stream, err := all[0].Compressed()
	must(t, err)
	replaced, err := io.ReadAll(stream)
	must(t, err)
	for what, c := range map[string]struct {
		spoil func([]byte) []byte
		want  string
	}{
		"whole":     {func(b []byte) []byte { return b }, ""},
		"cut short": {func(b []byte) []byte { return b[:len(b)/2] }, "layer sha256:"},
		"a bit":     {func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }, "layer sha256:"},
		"another":   {func([]byte) []byte { return replaced }, "error verifying size"},
		// A byte of the gzip header that says on what the layer was made.
		"the digest": {func(b []byte) []byte { b = bytes.Clone(b); b[9] ^= 1; return b }, "error verifying sha256"},
	} {
		t.Run(what, func(t *testing.T) {
			host := serve(t, spoilBlobs(c.spoil))
			push(t, host+"/x:1", img)
			_, _, err := take(t, t.Context(), Registry{}, Program{Image: host + "/x:1", Path: "/p"})
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %s", err, c.want)
			}
			t.Log(err)
		})
	}
}

func TestTakeSaysWhyNot(t *testing.T) {
	host := serve(t, nil)
	push(t, host+"/x:1", layers(t, []entry{file("p", "A")}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close() // it accepts, and never answers
	silent := listener.Addr().String()
	nobody := "127.0.0.1:1"
	denied := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	})
	wrong := "sha256:" + strings.Repeat("0", 64)
	for image, want := range map[string]string{
		host + "/x:2":        "the registry does not have it",
		host + "/y:1":        "the registry does not have it",
		host + "/x@" + wrong: "the registry does not have it",
		host + "/x":          "a tag or a digest is needed",
		denied + "/x:1":      "403",
		nobody + "/x:1":      ErrUnreachable.Error(),
		silent + "/x:1":      "no answer within 300ms",
		"no name":            "could not parse reference",
	} {
		_, _, err := take(t, t.Context(), Registry{Wait: 300 * time.Millisecond}, Program{Image: image, Path: "/p"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", image, err, want)
		}
	}
	if _, _, err := take(t, t.Context(), Registry{}, Program{Image: host + "/x:1", Path: "p"}); err == nil || !strings.Contains(err.Error(), "not absolute") {
		t.Errorf("a path: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := take(t, ended, Registry{}, Program{Image: host + "/x:1", Path: "/p"}); err == nil {
		t.Error("a context that has ended")
	}
}

// TestTakeStalls: a registry that stops in the middle is given up.
func TestTakeStalls(t *testing.T) {
	release := make(chan struct{})
	host := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			kept := httptest.NewRecorder()
			next.ServeHTTP(kept, q)
			body := kept.Body.Bytes()
			for name, values := range kept.Header() {
				w.Header()[name] = values
			}
			w.WriteHeader(kept.Code)
			if len(body) < 10_000 {
				_, _ = w.Write(body)
				return
			}
			_, _ = w.Write(body[:len(body)/2])
			w.(http.Flusher).Flush()
			<-release
		})
	})
	t.Cleanup(func() { close(release) })
	push(t, host+"/x:1", layers(t, []entry{file("p", noise(64*1024, 1))}))
	_, _, err := take(t, t.Context(), Registry{Stall: 200 * time.Millisecond}, Program{Image: host + "/x:1", Path: "/p"})
	if err == nil || !strings.Contains(err.Error(), "nothing more came for 200ms") {
		t.Errorf("got %v", err)
	}
}

// noise is what does not shrink, another for each seed.
func noise(n int, seed uint32) string {
	out := make([]byte, n)
	for i := range out {
		seed = seed*1664525 + 1013904223
		out[i] = byte(seed >> 24)
	}
	return string(out)
}

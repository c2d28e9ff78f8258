package images

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/duomesh/duomesh/internal/images/imagetest"
)

func program(t *testing.T, word string) string { return imagetest.Program(t, "amd64", word) }

// entry is one of a layer.
type entry = imagetest.Entry

func of(kind byte, name, content string) entry {
	return entry{Name: name, Content: content, Kind: kind}
}

func file(t *testing.T, name, word string) entry {
	t.Helper()
	return of(tar.TypeReg, name, program(t, word))
}

func gone(name string) entry     { return of(tar.TypeReg, name, "") }
func link(name, to string) entry { return of(tar.TypeSymlink, name, to) }

// layers makes an image for linux/amd64 of layers from the lowest to the top.
func layers(t *testing.T, all ...[]entry) v1.Image {
	t.Helper()
	return imagetest.Image(t, "amd64", all...)
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
	host := imagetest.Serve(t, nil)
	dir := func(name string) entry { return of(tar.TypeDir, name, "") }
	const at = "/usr/local/bin/p"
	for what, c := range map[string]struct {
		image v1.Image
		want  string // the word, or of the error
	}{
		"one layer":          {layers(t, []entry{dir("usr/"), file(t, "usr/local/bin/p", "A")}), "A"},
		"dot before":         {layers(t, []entry{file(t, "./usr/local/bin/p", "A")}), "A"},
		"the upper counts":   {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{file(t, "usr/local/bin/p", "B")}), "B"},
		"the later counts":   {layers(t, []entry{file(t, "usr/local/bin/p", "AAAA"), file(t, "usr/local/bin/p", "B")}), "B"},
		"a lower one":        {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{file(t, "etc/x", "B"), gone("usr/local/bin/.wh.q")}), "A"},
		"whiteout":           {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{gone("usr/local/bin/.wh.p")}), "no such file"},
		"whiteout above":     {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{gone("usr/.wh.local")}), "no such file"},
		"opaque":             {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{gone("usr/local/.wh..wh..opq")}), "no such file"},
		"opaque, and anew":   {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{file(t, "usr/local/bin/p", "B"), gone("usr/local/.wh..wh..opq")}), "B"},
		"whiteout, and anew": {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{gone("usr/local/bin/.wh.p")}, []entry{file(t, "usr/local/bin/p", "B")}), "B"},
		"link beside it":     {layers(t, []entry{file(t, "usr/local/bin/p-1.2", "A"), link("usr/local/bin/p", "p-1.2")}), "A"},
		"link, absolute":     {layers(t, []entry{link("usr/local/bin/p", "/opt/p")}, []entry{file(t, "opt/p", "A")}), "A"},
		"link upwards":       {layers(t, []entry{file(t, "usr/lib/p", "A")}, []entry{link("usr/local/bin/p", "../../lib/p")}), "A"},
		"link out of it":     {layers(t, []entry{link("usr/local/bin/p", "../../../../../../etc/passwd")}), "no such file (looked for /etc/passwd)"},
		"link in a circle":   {layers(t, []entry{link("usr/local/bin/p", "q"), link("usr/local/bin/q", "p")}), "more than 40 links"},
		"directory is link":  {layers(t, []entry{file(t, "usr/bin/p", "A"), link("usr/local", "/usr")}), "A"},
		"link covered":       {layers(t, []entry{file(t, "usr/bin/p", "A"), link("usr/local", "/usr")}, []entry{dir("usr/local/")}), "no such file"},
		"hard link": {layers(t,
			[]entry{file(t, "opt/p", "A"), of(tar.TypeLink, "usr/local/bin/p", "opt/p")}, []entry{file(t, "opt/p", "B")}), "A"},
		"a file above":   {layers(t, []entry{file(t, "usr/local/bin/p", "A")}, []entry{file(t, "usr/local", "B")}), "no such file"},
		"a directory":    {layers(t, []entry{dir("usr/local/bin/p")}), "is no regular file"},
		"another path":   {layers(t, []entry{file(t, "usr/bin/p", "A")}), "no such file (looked for /usr/local/bin/p)"},
		"no layer":       {layers(t), "no such file"},
		"no program":     {layers(t, []entry{of(tar.TypeReg, "usr/local/bin/p", "#!/bin/sh")}), "it is no program"},
		"another binary": {layers(t, []entry{of(tar.TypeReg, "usr/local/bin/p", imagetest.Program(t, "arm64", "A"))}), "it is a program for EM_AARCH64, not for amd64"},
	} {
		t.Run(what, func(t *testing.T) {
			image := host + "/" + strings.Map(func(r rune) rune {
				if r < 'a' || r > 'z' {
					return '-'
				}
				return r
			}, what) + ":1"
			imagetest.Push(t, image, c.image)
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
			if content != program(t, c.want) || taken != image+"@"+digest.String() {
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
	host := imagetest.Serve(t, nil)
	add := func(arch string) mutate.IndexAddendum {
		img := imagetest.Image(t, arch, []entry{of(tar.TypeReg, "p", imagetest.Program(t, arch, arch))})
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	both := mutate.AppendManifests(empty.Index, add("amd64"), add("arm64"))
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
	imagetest.Push(t, host+"/one:1", layers(t, []entry{file(t, "p", "A")}))
	_, _, err = take(t, t.Context(), Registry{}, Program{Image: host + "/one:1", Path: "/p", Architecture: "arm64"})
	if err == nil || !strings.Contains(err.Error(), "it is for linux/amd64, not linux/arm64") {
		t.Errorf("an image that has one platform: %v", err)
	}
}

// TestTakeReadsNoMoreThanItMust: a layer below the one that has the file is not
// fetched.
func TestTakeReadsNoMoreThanItMust(t *testing.T) {
	img := layers(t, []entry{file(t, "base", "large")}, []entry{file(t, "p", "A")})
	all, err := img.Layers()
	must(t, err)
	base, err := all[0].Digest()
	must(t, err)
	asked := make(chan string, 100)
	host := imagetest.Serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodGet {
				asked <- q.URL.Path
			}
			next.ServeHTTP(w, q)
		})
	})
	imagetest.Push(t, host+"/x:1", img)
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
	host := imagetest.Serve(t, nil)
	img := layers(t, []entry{file(t, "p", "A")})
	imagetest.Push(t, host+"/k/istio/pilot:1.31.1", img)
	digest, err := img.Digest()
	must(t, err)
	for _, image := range []string{"docker.io/istio/pilot:1.31.1", "registry.example/istio/pilot@" + digest.String()} {
		content, taken, err := take(t, t.Context(), Registry{Mirror: host + "/k/"}, Program{Image: image, Path: "/p"})
		if err != nil || content != program(t, "A") || !strings.HasPrefix(taken, host+"/k/istio/pilot") {
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
	host := imagetest.Serve(t, nil)
	imagetest.Push(t, host+"/x:1", layers(t, []entry{of(tar.TypeReg, "sh", string(shell))}))
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
	img := layers(t, []entry{file(t, "p", noise(64*1024, 1))})
	other := layers(t, []entry{file(t, "p", noise(64*1024, 2))})
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
			host := imagetest.Serve(t, spoilBlobs(c.spoil))
			imagetest.Push(t, host+"/x:1", img)
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
	host := imagetest.Serve(t, nil)
	imagetest.Push(t, host+"/x:1", layers(t, []entry{file(t, "p", "A")}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close() // it accepts, and never answers
	silent := listener.Addr().String()
	nobody := "127.0.0.1:1"
	denied := imagetest.Serve(t, func(http.Handler) http.Handler {
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
	host := imagetest.Serve(t, func(next http.Handler) http.Handler {
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
	imagetest.Push(t, host+"/x:1", layers(t, []entry{file(t, "p", noise(64*1024, 1))}))
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

package envoy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

const script = "../../../scripts/envoy.sh"

// saysVersion is a program that passes for an Envoy.
const saysVersion = "#!/bin/sh\necho \"$0  version: 1/1.40.0/Clean/RELEASE/BoringSSL\"\n"

// make tools takes only the Envoy of its cache that is whole: it says which one is not,
// and does not leave a damaged one behind for others to use.
func TestCachedEnvoyIsChecked(t *testing.T) {
	sum := fmt.Sprintf("%x  envoy\n", sha256.Sum256([]byte(saysVersion)))
	for name, c := range map[string]struct {
		program, sum, says string
		left               bool
	}{
		"whole":   {program: saysVersion, sum: sum, left: true},
		"changed": {program: saysVersion + "#", sum: sum, says: "is damaged, it has not the SHA-256"},
		"cut":     {program: saysVersion[:20], sum: sum, says: "is damaged, it has not the SHA-256"},
		"unknown": {program: saysVersion, says: "has no SHA-256 beside it", left: true},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			envoy := filepath.Join(cache, "duomesh", "envoy", pinnedHome(t), "envoy")
			writeFile(t, envoy, c.program, 0o755)
			if c.sum != "" {
				writeFile(t, envoy+".sha256", c.sum, 0o644)
			}
			out, err := runScript(t, "XDG_CACHE_HOME="+cache)
			if c.says == "" {
				if err != nil || !strings.Contains(out, envoy) {
					t.Errorf("a whole one: %v: %s", err, out)
				}
			} else if err == nil || !strings.Contains(out, c.says) || !strings.Contains(out, "could not be fetched") {
				t.Errorf("%v: %s, want an error with %q", err, out, c.says)
			}
			if _, err := os.Stat(envoy); (err == nil) != c.left {
				t.Errorf("the program afterwards: %v, want it there: %t", err, c.left)
			}
		})
	}
}

// An ENVOY_BIN that is not an Envoy is one error that names it.
func TestNamedEnvoyMustRun(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ program, says string }{
		"envoy":  {saysVersion, ""},
		"fails":  {"#!/bin/sh\nexit 3\n", "does not run here: exit status 3"},
		"words":  {"#!/bin/sh\necho >&2; echo no glibc >&2; exit 1\n", "does not run here: no glibc"},
		"other":  {"#!/bin/sh\necho nginx 1\n", `is no Envoy: asked for its version it says "nginx 1"`},
		"silent": {"#!/bin/sh\n", "is no Envoy"},
	} {
		path := filepath.Join(dir, name)
		writeFile(t, path, c.program, 0o755)
		wantNamed(t, path, c.says)
	}
	wantNamed(t, dir, "is no program")
	wantNamed(t, filepath.Join(dir, "nothing"), "is no program")
}

func wantNamed(t *testing.T, path, says string) {
	t.Helper()
	out, err := runScript(t, "ENVOY_BIN="+path)
	if says == "" {
		if err != nil || strings.TrimSpace(out) != path {
			t.Errorf("%s: %v: %s", path, err, out)
		}
		return
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%s: %v, want exit code 2", path, err)
	}
	if want := "duomesh: ENVOY_BIN=" + path + " " + says; !strings.HasPrefix(out, want) || strings.Count(out, "\n") != 1 {
		t.Errorf("%s: it says %q, want one line that begins with %q", path, out, want)
	}
}

// runScript runs scripts/envoy.sh where nothing can be fetched.
func runScript(t *testing.T, env string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range []string{"pip", "pip3", "curl"} {
		writeFile(t, filepath.Join(bin, name), "#!/bin/sh\nexit 1\n", 0o755)
	}
	cmd := exec.Command("bash", script)
	cmd.Env = append(os.Environ(), "ENVOY_BIN=", "DUOMESH_REGISTRY=none", "PATH="+bin+":"+os.Getenv("PATH"), env)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pinnedHome is the directory of the pinned release for this machine in the cache.
func pinnedHome(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	found := regexp.MustCompile(`(?s)ENVOY_RELEASE=(\S+).*ENVOY_SHA256_` + arch + `=(\w{16})`).FindSubmatch(data)
	if arch == "" || found == nil {
		t.Skipf("NOT RUN: no Envoy is pinned for %s", runtime.GOARCH)
	}
	return fmt.Sprintf("%s-%s", found[1], found[2])
}

func writeFile(t *testing.T, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

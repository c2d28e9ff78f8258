package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/images/imagetest"
)

func program(t *testing.T, word string) string {
	t.Helper()
	return imagetest.Program(t, runtime.GOARCH, word)
}

// push makes an image with one program and returns it as the command names it.
func push(t *testing.T, reference, path, word string) string {
	t.Helper()
	file := imagetest.Entry{Name: strings.TrimPrefix(path, "/"), Content: program(t, word), Kind: tar.TypeReg}
	return reference + "@" + imagetest.Push(t, reference, imagetest.Image(t, runtime.GOARCH, []imagetest.Entry{file}))
}

func TestReleased(t *testing.T) {
	host := imagetest.Serve(t, nil)
	pinned := push(t, host+"/istio/pilot:1", "/usr/local/bin/pilot-discovery", "istiod")
	out := filepath.Join(t.TempDir(), "deep", "istiod")
	for _, c := range []struct {
		arguments []string
		code      int
		said      string
	}{
		{[]string{"-image", host + "/istio/pilot:1", "-path", "/usr/local/bin/pilot-discovery", "-static", "-o", out}, done, "layer 1 of 1"},
		{[]string{"-image", "docker.io/istio/pilot:1", "-mirror", host, "-path", "/usr/local/bin/pilot-discovery", "-o", out}, done, "layer 1 of 1"},
		{[]string{"-image", host + "/istio/pilot:2", "-path", "/x", "-o", out}, failed, "the registry does not have it"},
		{[]string{"-image", host + "/istio/pilot:1", "-path", "/x", "-o", out}, failed, "the image has no such file"},
		{[]string{"-image", "127.0.0.1:1/istio/pilot:1", "-path", "/x", "-o", out}, unreachable, "the registry cannot be reached"},
		{[]string{"-image", host + "/istio/pilot:1"}, usage, "want -image"},
		{[]string{"-images", "x"}, usage, "-images"},
	} {
		var said bytes.Buffer
		if code := run(t.Context(), c.arguments, &said); code != c.code || !strings.Contains(said.String(), c.said) {
			t.Errorf("%v: %d, %s", c.arguments, code, said.String())
		}
		got, err := os.ReadFile(out)
		note, noteErr := os.ReadFile(out + ".image")
		must(t, errors.Join(err, noteErr))
		if string(got) != program(t, "istiod") || string(note) != pinned+"\n" {
			t.Errorf("%v: the file is not whole, or said to be of %s", c.arguments, note)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// released are the images that scripts/controlplane.sh asks for, of the versions in
// tools/, by the name of the program.
var released = map[string][2]string{
	"etcd":           {"etcd:3.6.8-0", "/usr/local/bin/etcd"},
	"kube-apiserver": {"kube-apiserver:v1.34.4", "/usr/local/bin/kube-apiserver"},
	"kubectl":        {"kubectl:v1.34.4", "/bin/kubectl"},
	"istiod":         {"istio/pilot:1.31.1", "/usr/local/bin/pilot-discovery"},
	"istioctl":       {"istio/istioctl:1.31.1", "/usr/local/bin/istioctl"},
}

// script runs scripts/controlplane.sh with a cache of its own, and a go command that
// writes `built` in place of building a program of tools/. It returns what is in
// each program that the script names, and what it said.
func script(t *testing.T, cache, registry string) (programs map[string]string, said string) {
	t.Helper()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	goCache, err := exec.Command(real, "env", "GOCACHE").Output()
	must(t, err)
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "go"), []byte(`#!/bin/sh
if [ "$1" = -C ]; then
	while [ "$1" != -o ]; do shift; done
	echo built >"$2" && exec chmod 0755 "$2"
fi
exec `+real+` "$@"
`), 0o755))
	cmd := exec.Command("scripts/controlplane.sh", "env")
	cmd.Dir = "../../../.."
	cmd.Env = []string{
		"HOME=" + os.Getenv("HOME"), "GOCACHE=" + strings.TrimSpace(string(goCache)), "PATH=" + bin + ":" + os.Getenv("PATH"),
		"XDG_CACHE_HOME=" + cache, "GATEWAY_CRDS=" + bin, "DUOMESH_REGISTRY=" + registry,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	exports, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	programs = map[string]string{}
	for line := range strings.Lines(string(exports)) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), "=")
		if path == bin {
			continue
		}
		content, err := os.ReadFile(path)
		must(t, err)
		programs[filepath.Base(path)] = string(content)
		note, err := os.ReadFile(path + ".image")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		programs[filepath.Base(path)+".image"] = string(note)
	}
	if len(programs) != 2*len(released) {
		t.Fatalf("programs are %v: %s", programs, stderr.String())
	}
	return programs, stderr.String()
}

// TestScript drives scripts/controlplane.sh against a registry of the test's own.
func TestScript(t *testing.T) {
	host := imagetest.Serve(t, nil)
	pinned := map[string]string{}
	for program, at := range released {
		pinned[program] = push(t, host+"/mirror/"+at[0], at[1], program)
	}
	all := t.TempDir()
	got, said := script(t, all, host+"/mirror")
	for p := range released {
		if got[p] != program(t, p) || got[p+".image"] != pinned[p]+"\n" {
			t.Errorf("%s is %q of %q; %s", p, got[p], got[p+".image"], said)
		}
		if !strings.Contains(said, p+" is that of "+pinned[p]) {
			t.Errorf("nothing is said of %s: %s", p, said)
		}
	}
	// What is there is neither asked for nor built again.
	if again, said := script(t, all, host+"/mirror"); said != "" || again["etcd"] != got["etcd"] {
		t.Errorf("a second time: %s", said)
	}
}

// TestScriptBuilds what a registry does not have.
func TestScriptBuilds(t *testing.T) {
	host := imagetest.Serve(t, nil)
	push(t, host+"/"+released["etcd"][0], released["etcd"][1], "etcd")
	for _, c := range []struct {
		registry   string
		etcd       string
		asked, not int // how often something was looked for; how often a reason was given
		why        string
	}{
		{host, program(t, "etcd"), 5, 4, "the registry does not have it"},
		{"127.0.0.1:1", "built\n", 1, 1, "the registry cannot be reached"},
		{"none", "built\n", 0, 0, "building"},
	} {
		got, said := script(t, t.TempDir(), c.registry)
		if got["etcd"] != c.etcd || got["istiod"] != "built\n" || got["istiod.image"] != "" {
			t.Errorf("%s: %v", c.registry, got)
		}
		if n := strings.Count(said, "looking for"); n != c.asked {
			t.Errorf("%s: asked %d times: %s", c.registry, n, said)
		}
		if n := strings.Count(said, "duomesh: image "); n != c.not || !strings.Contains(said, c.why) {
			t.Errorf("%s: %d reasons: %s", c.registry, n, said)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

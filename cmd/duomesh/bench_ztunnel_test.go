package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/internal/images/imagetest"
)

// aDigest is of nothing that exists.
const aDigest = "@sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// found completes a plan as bench does, with an image, and says what was told meanwhile.
func found(t *testing.T, image string) (f benchFlags, p plan.Plan, said string) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("ZTUNNEL_BIN", "")
	t.Setenv("ZTUNNEL_IMAGE", image)
	t.Setenv("DUOMESH_REGISTRY", "")
	f = benchFlags{plan: plan.Default()}
	cmd := newBenchCmd()
	cmd.ResetFlags()
	f.register(cmd)
	p, err := f.complete(cmd.Flags().Changed)
	var told bytes.Buffer
	if err == nil {
		err = f.findZtunnel(t.Context(), p, &told)
	}
	if err == nil {
		p, err = f.complete(cmd.Flags().Changed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, p, told.String()
}

// TestReleasedZtunnelOrItsStandIn: the program of an image where it can be had and runs;
// else the rows say why they did not run, and the stand-in comes beside them.
func TestReleasedZtunnelOrItsStandIn(t *testing.T) {
	program, err := exec.LookPath("echo") // it has something to say of "version"
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	at := imagetest.Serve(t, nil) + "/ztunnel"
	push := func(tag, content string) string {
		image := imagetest.Image(t, runtime.GOARCH, []imagetest.Entry{{Name: "usr/local/bin/ztunnel", Content: content, Kind: tar.TypeReg}})
		return at + "@" + imagetest.Push(t, at+":"+tag, image)
	}
	f, p, said := found(t, push("1", string(content)))
	if !slices.Contains(p.Variants, plan.Ztunnel) || slices.Contains(p.Variants, plan.HBONERef) || !strings.Contains(f.tools.Ztunnel, "ztunnel-") {
		t.Errorf("with an image: %v, ztunnel %q: %s", p.Variants, f.tools.Ztunnel, said)
	}
	for image, want := range map[string]string{
		"127.0.0.1:1/ztunnel" + aDigest: "the registry cannot be reached",
		at + aDigest:                    "the registry does not have it",
		push("2", imagetest.Program(t, runtime.GOARCH, "no!")): "for its version",
		"none": "set ZTUNNEL_BIN or ZTUNNEL_IMAGE",
	} {
		f, p, said := found(t, image)
		why, absent := p.WhyAbsent(plan.Ztunnel)
		if !absent || !strings.Contains(why, want) || f.tools.Ztunnel != "" || !slices.Contains(p.Variants, plan.HBONERef) {
			t.Errorf("%s: %v; ztunnel is absent: %v, for %q, want %q", image, p.Variants, absent, why, want)
		}
		if image != "none" && !strings.Contains(said, want) {
			t.Errorf("%s: it was said %q", image, said)
		}
	}
}

// TestZtunnelBesideTheUser: a name without a slash is the file of that name here, as it
// is checked, and not one in $PATH.
func TestZtunnelBesideTheUser(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("ztunnel", []byte("#!/bin/sh\necho here\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := benchFlags{plan: plan.Plan{Variants: []plan.Variant{plan.Direct, plan.Ztunnel}}}
	f.tools.Ztunnel = "ztunnel"
	if err := f.findZtunnel(t.Context(), f.plan, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	programs, err := f.tools.Programs(t.Context(), f.plan)
	if err != nil || !strings.HasPrefix(programs["ztunnel"], "here, sha256 ") {
		t.Errorf("%v, %v", programs, err)
	}
}

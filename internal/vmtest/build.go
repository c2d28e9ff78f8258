package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// initProgram is the first process of each machine.
var initProgram = program{name: "init", pkg: "internal/vmtest/cmd/vminit"}

// build builds what the runs need, and the machines' init. All commands, and then all
// tests, are built by one go command: it shares what they have in common and links
// some at a time.
func (r *runner) build(ctx context.Context) error {
	start := time.Now()
	dir := filepath.Join(r.Out, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory for programs: %w", err)
	}
	var commands, tests []string
	for _, p := range slices.Concat([]program{initProgram}, beside, r.chosen()) {
		r.files[guest.TestDir+"/"+p.binary()] = filepath.Join(dir, p.binary())
		if pkg := module + "/" + p.pkg; p.test {
			tests = append(tests, pkg)
		} else {
			commands = append(commands, pkg)
		}
	}
	r.init = filepath.Join(dir, initProgram.binary())
	for _, b := range []struct{ verb, pkgs []string }{{[]string{"build"}, commands}, {[]string{"test", "-c"}, tests}} {
		if err := goBuild(ctx, r.Go, b.verb, dir, b.pkgs); err != nil {
			return err
		}
	}
	r.say("built %d programs in %s", len(r.files), since(start))
	return nil
}

// goBuild builds packages into dir.
func goBuild(ctx context.Context, goCommand string, verb []string, dir string, pkgs []string) error {
	slices.Sort(pkgs)
	pkgs = slices.Compact(pkgs)
	if len(pkgs) == 0 {
		return nil
	}
	args := slices.Concat(verb, []string{"-ldflags=-s -w", "-o", dir + string(filepath.Separator)}, pkgs)
	cmd := exec.CommandContext(ctx, goCommand, args...)
	// The machines are of this architecture whatever the host is.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(pkgs, ", "), err, strings.TrimSpace(string(out)))
	}
	// Then nothing is written, and what an earlier run has built must not pass for it.
	if before, _, none := strings.Cut(string(out), "[no test files]"); none {
		fields := strings.Fields(before)
		return fmt.Errorf("build %s: it has no tests", fields[len(fields)-1])
	}
	return nil
}

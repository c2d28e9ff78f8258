package vmtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// builder builds programs for the machines, each once.
type builder struct {
	goCommand, dir string
	built          map[string]string // binary → path
}

func newBuilder(goCommand, dir string) (*builder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for programs: %w", err)
	}
	return &builder{goCommand: goCommand, dir: dir, built: map[string]string{}}, nil
}

// program builds p and returns the path of its binary.
func (b *builder) program(ctx context.Context, p program) (string, error) {
	if p.test {
		return b.build(ctx, p.binary(), "test", "-c", p.pkg)
	}
	return b.build(ctx, p.binary(), "build", "", p.pkg)
}

func (b *builder) init(ctx context.Context) (string, error) {
	return b.build(ctx, "vminit", "build", "", "internal/vmtest/cmd/vminit")
}

func (b *builder) build(ctx context.Context, binary, verb, flag, pkg string) (string, error) {
	if path, ok := b.built[binary]; ok {
		return path, nil
	}
	path := filepath.Join(b.dir, binary)
	args := []string{verb}
	if flag != "" {
		args = append(args, flag)
	}
	args = append(args, "-ldflags=-s -w", "-o", path, module+"/"+pkg)
	cmd := exec.CommandContext(ctx, b.goCommand, args...)
	// The machines are of this architecture whatever the host is.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, strings.TrimSpace(string(out)))
	}
	// Then nothing is written, and what an earlier run has built must not pass for it.
	if strings.Contains(string(out), "[no test files]") {
		return "", fmt.Errorf("build %s: it has no tests", pkg)
	}
	b.built[binary] = path
	return path, nil
}

package envoy

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// Version asks the Envoy at a path which one it is. An error says, in one line, why it does
// not run on this machine.
func Version(ctx context.Context, path string) (string, error) {
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	said := strings.TrimSpace(string(out))
	first, _, _ := strings.Cut(said, "\n")
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && first != "" {
			return "", fmt.Errorf("%s does not run here: %s", path, first)
		}
		return "", fmt.Errorf("%s does not run here: %w", path, notStarted(path, err))
	}
	_, version, found := strings.Cut(said, "version: ")
	if !found {
		return "", fmt.Errorf("%s is no Envoy: asked for its version it says %q", path, first)
	}
	return strings.TrimSpace(version), nil
}

// notStarted explains why a program could not be started: of one whose interpreter is
// missing, as where it was built for another C library, the kernel says that it is the
// program that is not there (execve(2), ENOENT).
func notStarted(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	wants := interpreter(path)
	if wants == "" {
		return err
	}
	if _, missing := os.Stat(wants); missing == nil {
		return err
	}
	return fmt.Errorf("its interpreter %s is not there: it is built for another C library or another machine: %w", wants, err)
}

// interpreter is what a program says that it is run by; "" where it says nothing.
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	program, err := elf.NewFile(f)
	if err != nil {
		line, _ := bufio.NewReader(f).ReadString('\n') // what is there is enough
		if words := strings.Fields(strings.TrimPrefix(line, "#!")); strings.HasPrefix(line, "#!") && len(words) > 0 {
			return words[0]
		}
		return ""
	}
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, min(p.Filesz, 4096)) // PATH_MAX
		if _, err := p.ReadAt(name, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(name), "\x00")
	}
	return ""
}

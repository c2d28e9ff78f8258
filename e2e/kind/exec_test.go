package kind

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// repository is the module's directory.
const repository = "../.."

// patience is how long the suite waits for what a cluster does in seconds: a machine that
// others use too takes its time. Nothing is judged by it.
const patience = 3 * time.Minute

// kubectl runs the real one: the journey is what a person types.
func kubectl(ctx context.Context, args ...string) string {
	GinkgoHelper()
	out, err := tryKubectl(ctx, args...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// apply applies manifests.
func apply(ctx context.Context, namespace, manifests string) {
	GinkgoHelper()
	file := filepath.Join(GinkgoT().TempDir(), "manifests.yaml")
	Expect(os.WriteFile(file, []byte(manifests), 0o600)).To(Succeed())
	kubectl(ctx, "apply", "-n", namespace, "-f", file)
}

func tryKubectl(ctx context.Context, args ...string) (string, error) {
	program := os.Getenv("KUBECTL_BIN")
	if program == "" {
		program = "kubectl"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = repository
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return string(out), err
}

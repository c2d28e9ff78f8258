package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNode makes an image of each name that kubeadm lists, and names what it lacks.
func TestNode(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	if static(self) != nil {
		t.Skip("NOT RUN: this test is not static itself")
	}
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "pause"), self, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "kube-proxy"), self, 0o755))
	s := NodeSources{Bin: bin, Root: t.TempDir(), Names: []string{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10.1"}}
	specs, err := Node(s)
	must(t, err)
	if len(specs) != 2 || specs[1].Name != "registry.k8s.io/pause:3.10.1" || specs[1].Entrypoint[0] != "/usr/local/bin/pause" {
		t.Errorf("images are %+v", specs)
	}
	for name, want := range map[string]string{
		"registry.k8s.io/coredns/coredns:v1": "coredns: no such file", "registry.k8s.io/pause": "it has no tag",
		// A proxy without its extensions would drop services of several endpoints.
		"registry.k8s.io/kube-proxy:v1": "no extensions of iptables below",
	} {
		s.Names = []string{name}
		if _, err := Node(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := Node(NodeSources{Bin: bin}); err == nil {
		t.Error("no names, and no error")
	}
}

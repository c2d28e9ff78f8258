package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenNamesTheFile: a kubeconfig that was given and leads nowhere is what is said.
func TestOpenNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	const noContext = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: \"https://127.0.0.1:1\"}}]\n"
	for _, text := range []string{"", noContext} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (Where{Kubeconfig: file}).Open(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.WriteFile(file, []byte(noContext+"contexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Where{Kubeconfig: file}).Open(); err != nil {
		t.Error(err)
	}
}

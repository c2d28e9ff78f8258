package deploy

import (
	"os"
	"strings"
	"testing"
)

func render(t *testing.T, r Release) string {
	t.Helper()
	r.Name, r.Namespace = "duomesh", "duomesh-system"
	documents, err := r.Render()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(documents, "\n---\n")
}

// What the command installs is what the plain manifests say.
func TestRenderIsTheManifest(t *testing.T) {
	shipped, err := os.ReadFile("manifests/duomesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(render(t, Release{}), "\n---\n") {
		if text := strings.TrimSpace(document); !strings.Contains(string(shipped), text) {
			t.Errorf("deploy/manifests lacks\n%s", text)
		}
	}
}

func TestValues(t *testing.T) {
	out := render(t, Release{
		Values: [][]byte{[]byte("clusterId: first\nlogLevel: debug\n"), []byte("clusterId: second\n")},
		Set:    []string{"waypoint.enabled=false"},
	})
	for text, want := range map[string]bool{
		`value: "second"`: true, `value: "first"`: false, "--log-level=debug": true, "duomesh-waypoint-defaults": false,
	} {
		if got := strings.Contains(out, text); got != want {
			t.Errorf("%s: there %v, want %v", text, got, want)
		}
	}
	if _, err := (Release{Set: []string{"a.b[c=1"}}).Render(); err == nil {
		t.Error("a --set that cannot be read is taken")
	}
	if _, err := (Release{Values: [][]byte{[]byte("a: [")}}).Render(); err == nil {
		t.Error("values that are no YAML are taken")
	}
}

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

// The waypoint's image is pulled as its own value says, or else as the agent's.
func TestPullPolicies(t *testing.T) {
	for set, want := range map[string][2]int{
		"waypoint.image.pullPolicy=Always": {1, 1},
		"image.pullPolicy=Always":          {2, 0},
		"image.pullPolicy=Never":           {0, 0},
	} {
		out := render(t, Release{Set: []string{set}})
		got := [2]int{strings.Count(out, "imagePullPolicy: Always"), strings.Count(out, "imagePullPolicy: IfNotPresent")}
		if got != want {
			t.Errorf("%s: Always and IfNotPresent %v times, want %v", set, got, want)
		}
	}
}

// An agent that does not start says why where kubectl describe, and install, look.
func TestTerminationMessage(t *testing.T) {
	if out := render(t, Release{}); !strings.Contains(out, "terminationMessagePolicy: FallbackToLogsOnError") {
		t.Error("the last words of an agent are in its log alone")
	}
}

func TestAddressesOfIstiod(t *testing.T) {
	for address, good := range map[string]bool{
		"istiod-1-22-6.istio-system.svc:15012": true, "10.0.0.1:15012": true, "[fd00::1]:15012": true,
		"istiod": false, "fd00::1:15012": false, "[fd00::1]": false, "[istiod]:15012": false, "http://istiod:15012": false,
	} {
		_, err := (Release{Values: [][]byte{[]byte("xdsAddress: '" + address + "'\n")}}).Render()
		if (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// A value that looks like a number is a text by --set-string, and comes after --set.
func TestSetString(t *testing.T) {
	if _, err := (Release{Set: []string{"clusterId=7"}}).Render(); err == nil {
		t.Error("a number is taken for the name of a cluster: --set-string shows nothing")
	}
	if out := render(t, Release{Set: []string{"clusterId=mine"}, SetString: []string{"clusterId=007"}}); !strings.Contains(out, `value: "007"`) {
		t.Errorf("clusterId is not 007:\n%s", out)
	}
	if _, err := (Release{SetString: []string{"a.b[c=1"}}).Render(); err == nil || !strings.Contains(err.Error(), "--set-string a.b[c=1") {
		t.Errorf("a --set-string that cannot be read: %v", err)
	}
}

func TestMaxUnavailable(t *testing.T) {
	for value, good := range map[string]bool{"1": true, "3": true, `"10%"`: true, `"100%"`: true, "0": false, "-1": false, `"0%"`: false, `"101%"`: false, "many": false} {
		out, err := (Release{Name: "duomesh", Values: [][]byte{[]byte("maxUnavailable: " + value + "\n")}}).Render()
		if (err == nil) != good {
			t.Errorf("%s: %v", value, err)
		}
		if want := "maxUnavailable: " + strings.Trim(value, `"`) + "}"; good && !strings.Contains(strings.Join(out, "\n"), want) {
			t.Errorf("%s: the manifests do not say %s", value, want)
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

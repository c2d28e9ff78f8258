package kind

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestLoadSeesLostRequests lets a server cut every second request on a kept connection:
// curl makes such a request again by itself, and the load must count it all the same.
func TestLoadSeesLostRequests(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	for name, cuts := range map[string]bool{"cut": true, "left alone": false} {
		t.Run(name, func(t *testing.T) {
			var served, lost atomic.Int64
			end := filepath.Join(t.TempDir(), "end")
			server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				switch n := served.Add(1); {
				case n == 40:
					if err := os.WriteFile(end, nil, 0o600); err != nil {
						t.Error(err)
					}
				case n%2 == 0 && cuts && n < 40:
					lost.Add(1)
					panic(http.ErrAbortHandler)
				}
			}))
			defer server.Close()
			out, err := exec.CommandContext(t.Context(), "sh", "-c", loading(server.URL+"/", "", end)).Output()
			if err != nil {
				t.Fatalf("load: %v: %s", err, out)
			}
			said := strings.Fields(string(out))
			if len(said) < 2 || said[0] != "200" {
				t.Fatalf("the load counted %q", said)
			}
			if counted := strings.Contains(string(out), retried); counted != cuts {
				t.Errorf("%d requests were cut, and the load counted %q", lost.Load(), said)
			}
		})
	}
}

// TestAllAnswered holds which answers are all of them.
func TestAllAnswered(t *testing.T) {
	wanted := int(time.Minute.Seconds()) * perSecond
	for _, c := range []struct {
		answers
		right bool
	}{
		{answers{"200 15000", wanted}, true},
		{answers{"200 100", wanted}, false},
		{answers{"200 15000, 503 1", wanted}, false},
		{answers{"200 15000, " + retried + " 2", wanted}, false},
		{answers{"000 15000", wanted}, false},
		{answers{"", wanted}, false},
	} {
		if err := c.all(); (err == nil) != c.right {
			t.Errorf("%+v: %v", c.answers, err)
		}
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// An API server that refuses to say where the node stands is not asked again: the agent
// starts. One that is away for a moment is.
func TestLocalityIsRefused(t *testing.T) {
	for code, again := range map[int]bool{
		http.StatusForbidden: false, http.StatusUnauthorized: false, http.StatusNotFound: false, http.StatusServiceUnavailable: true,
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if asked++; asked == 2 {
					cancel() // enough is seen
				}
				w.WriteHeader(code)
			}))
			defer server.Close()
			file := filepath.Join(t.TempDir(), "kubeconfig")
			text := fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: %q}}],
				contexts: [{name: a, context: {cluster: a}}], current-context: a}`, server.URL)
			must(t, os.WriteFile(file, []byte(text), 0o600))
			place := intent.Place{Node: "a"}
			must(t, kubeFlags{on: true, config: file}.locate(ctx, &place, slog.New(slog.DiscardHandler)))
			server.Close()
			if (asked > 1) != again {
				t.Errorf("it was asked %d times", asked)
			}
		})
	}
}

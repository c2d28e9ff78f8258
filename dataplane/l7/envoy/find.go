package envoy

import (
	"os"
	"path/filepath"
)

// Find is the path of the Envoy to use: the one that is named, as by ENVOY_BIN, else
// the one that make tools has put into the user's cache; "" where there is none.
func Find(named string) string {
	if named != "" {
		return named
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	path := filepath.Join(cache, "duomesh", "envoy", "current", "envoy")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

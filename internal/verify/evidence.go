package verify

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// writeJSON writes one file of evidence; a scenario's name becomes a file name.
func writeJSON(dir, name string, v any) error {
	path := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep evidence: %w", err)
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(v); err != nil {
		return fmt.Errorf("keep evidence in %s: %w", path, err)
	}
	return f.Close()
}

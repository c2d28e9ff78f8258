package scenario

import (
	"os"
	"strings"
	"testing"
)

// TestDocListsAll keeps docs/scenarios.md true.
func TestDocListsAll(t *testing.T) {
	doc, err := os.ReadFile("../../docs/scenarios.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range All() {
		if !strings.Contains(string(doc), "| `"+s.Name+"` |") {
			t.Errorf("docs/scenarios.md does not list %s", s.Name)
		}
	}
	if listed := strings.Count(string(doc), "\n| `clusterip/"); listed != 8 {
		t.Errorf("docs/scenarios.md lists %d scenarios of clusterip, want 8", listed)
	}
}

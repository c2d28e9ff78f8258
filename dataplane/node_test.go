package dataplane

import (
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestOpenNamesTheNode(t *testing.T) {
	_, err := Open(Host{Place: intent.Place{Node: "node-a"}}, Options{})
	if err == nil || !strings.Contains(err.Error(), "node node-a: open engine: no cgroup") {
		t.Errorf("got %v", err)
	}
}

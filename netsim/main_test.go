package netsim

import (
	"os"
	"testing"

	"github.com/duomesh/duomesh/internal/traffic"
)

func TestMain(m *testing.M) {
	if traffic.IsChild() {
		os.Exit(traffic.Main())
	}
	if id := os.Getenv(ownerEnv); id != "" {
		os.Exit(ownCluster(id))
	}
	os.Exit(m.Run())
}

package bench

import (
	"os"
	"testing"

	"github.com/duomesh/duomesh/bench/load"
)

func TestMain(m *testing.M) {
	if load.IsChild() {
		os.Exit(load.Main())
	}
	os.Exit(m.Run())
}

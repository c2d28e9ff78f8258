package bench

import (
	"os"
	"testing"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/internal/ambient/standin"
)

func TestMain(m *testing.M) {
	if load.IsChild() {
		os.Exit(load.Main())
	}
	if standin.IsChild() {
		os.Exit(standin.Main(os.Args, os.Environ()))
	}
	os.Exit(m.Run())
}

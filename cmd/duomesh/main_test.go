package main

import (
	"os"
	"testing"
)

// asMainEnv makes the test binary the duomesh command, so that tests see exit
// codes and background processes as users do.
const asMainEnv = "DUOMESH_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if code, child := runChild(); child {
		os.Exit(code)
	}
	if os.Getenv(asMainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

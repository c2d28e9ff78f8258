package kernel

import (
	"bytes"
	"os"
	"testing"
)

// ExpediteEnv set to anything asks for Expedite.
const ExpediteEnv = "DUOMESH_EXPEDITE"

// expedited is the kernel's setting (rcupdate.rcu_expedited in the kernel's
// admin-guide/kernel-parameters).
const expedited = "/sys/kernel/rcu_expedited"

// Expedite has the kernel expedite grace periods of RCU until the test ends, where
// ExpediteEnv asks for it: what is attached to a link or taken off it waits for one, 15 ms
// and more, and a suite that makes worlds does so thousands of times. The setting is the
// whole machine's; where it cannot be made the test goes on as slowly as before, and says so.
func Expedite(t testing.TB) {
	t.Helper()
	if os.Getenv(ExpediteEnv) == "" {
		return
	}
	was, err := os.ReadFile(expedited)
	if err == nil {
		err = os.WriteFile(expedited, []byte("1"), 0)
	}
	if err != nil {
		t.Logf("grace periods are not expedited: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := os.WriteFile(expedited, bytes.TrimSpace(was), 0); err != nil {
			t.Errorf("grace periods stay expedited: %v", err)
		}
	})
}

package plain

import "testing"

func TestPass(t *testing.T) {}

func TestTree(t *testing.T) {
	t.Run("a", func(t *testing.T) {})
	t.Run("b", func(t *testing.T) {
		t.Log("a message that is no reason")
		t.Skipf("NOT RUN: %s", "no such\nkernel")
	})
}

func TestSkip(t *testing.T) { t.SkipNow() }

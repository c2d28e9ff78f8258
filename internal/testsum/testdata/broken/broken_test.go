package broken

import "testing"

func TestTree(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Error("the leaf is bad") })
}

func TestParent(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Error("only the parent is bad")
}

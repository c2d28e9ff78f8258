package l4

import "testing"

func TestValuesAreSaidInWords(t *testing.T) {
	if got, want := inWords(meshDestination{Port: 80}), "{Addr:[0 0 0 0] Port:80 Pad:[0 0]}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

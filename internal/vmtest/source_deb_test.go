package vmtest

import "testing"

// A machine of Debian has its own mirror; one of Ubuntu has none of Debian.
func TestMirrorAmong(t *testing.T) {
	for targets, want := range map[string]string{
		"Debian main https://security.debian.org/debian-security\nDebian contrib https://a.example/debian\nDebian main https://m.example/debian\n": "https://m.example/debian",
		"Ubuntu main https://archive.ubuntu.com/ubuntu\nUbuntu universe https://archive.ubuntu.com/ubuntu\n":                                       debian,
		"": debian,
	} {
		if got := mirrorAmong(targets); got != want {
			t.Errorf("of %q: %s, want %s", targets, got, want)
		}
	}
}

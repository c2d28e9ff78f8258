package images

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAmbient makes both images of a tree that has what the programs need, and names
// what is missing.
func TestAmbient(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	if static(self) != nil {
		t.Skip("NOT RUN: this test is not static itself")
	}
	dir := t.TempDir()
	put := func(path string) string {
		path = filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, self, 0o755))
		return path
	}
	for _, p := range []string{"usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/conntrack", "bin/ip", "usr/lib/x/xtables/libxt_mark.so"} {
		put("root/" + p)
	}
	s := AmbientSources{Plugin: put("istio-cni"), Agent: put("install-cni"), Ztunnel: put("ztunnel"), Root: filepath.Join(dir, "root"), Tag: "1"}
	specs, err := Ambient(s)
	must(t, err)
	for i, want := range []struct {
		name, first string
		files       []string
	}{
		{"duomesh/istio-cni:1", "/usr/local/bin/install-cni", []string{"/opt/cni/bin/istio-cni", "/usr/local/bin/install-cni", "/usr/sbin/ip6tables-restore", "/usr/lib/x/xtables/libxt_mark.so"}},
		{"duomesh/ztunnel:1", "/usr/local/bin/ztunnel", []string{"/usr/local/bin/ztunnel", "/tmp"}},
	} {
		if specs[i].Name != want.name || specs[i].Entrypoint[0] != want.first || specs[i].User != "" {
			t.Errorf("image %d is %s, starts %s as %q", i, specs[i].Name, specs[i].Entrypoint, specs[i].User)
		}
		for _, path := range want.files {
			if !slices.ContainsFunc(specs[i].Files, func(f File) bool { return f.Path == path }) {
				t.Errorf("image %s has no %s", want.name, path)
			}
		}
		_, err := Build(specs[i])
		must(t, err)
	}
	for want, spoil := range map[string]func(*AmbientSources){
		"istio-cni:1: no extensions of iptables below": func(s *AmbientSources) { s.Root = t.TempDir() },
		"istio-cni:1: open ":                           func(s *AmbientSources) { s.Plugin = filepath.Join(dir, "none") },
		"ztunnel:1: open ":                             func(s *AmbientSources) { s.Ztunnel = filepath.Join(dir, "none") },
	} {
		bad := s
		spoil(&bad)
		if _, err := Ambient(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

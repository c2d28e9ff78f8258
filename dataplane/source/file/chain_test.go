package file

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestChain(t *testing.T) {
	// The temporary directory's own path may lead through links.
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"conf/v1", "elsewhere"} {
		must(t, os.MkdirAll(at(dir), 0o700))
	}
	mustWrite(t, at("conf/v1/mesh.yaml"), "")
	mustWrite(t, at("elsewhere/mesh.yaml"), "")
	for link, target := range map[string]string{
		"conf/data": "v1", "conf/mesh.yaml": "data/mesh.yaml", "conf/far.yaml": at("elsewhere/mesh.yaml"),
		"up.yaml": "conf/../elsewhere/mesh.yaml", "loop": "loop", "dangling": "conf/nothing/mesh.yaml",
	} {
		must(t, os.Symlink(target, at(link)))
	}
	for _, c := range []struct {
		path  string
		dirs  []string
		whole bool
	}{
		{"elsewhere/mesh.yaml", []string{"elsewhere"}, true},
		{"conf/data/mesh.yaml", []string{"conf", "conf/v1"}, true},
		{"conf/mesh.yaml", []string{"conf", "conf/v1"}, true},
		{"conf/far.yaml", []string{"conf", "elsewhere"}, true},
		{"up.yaml", []string{"", "elsewhere"}, true},
		{"conf/none.yaml", []string{"conf"}, true},
		{"nothing/at/all.yaml", []string{""}, false},
		{"dangling", []string{"", "conf"}, false},
		{"loop", []string{""}, false},
	} {
		var want []string
		for _, dir := range c.dirs {
			want = append(want, at(dir))
		}
		if dirs, whole := chain(at(c.path)); !slices.Equal(dirs, want) || whole != c.whole {
			t.Errorf("%s: got %q %t, want %q %t", c.path, dirs, whole, want, c.whole)
		}
	}
}

package arch

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var includeLine = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]*["<]([^">]+)[">]`)

// checkIncludes returns one sentence for each #include, in the C files below bpf
// of tree, that names neither a header of its own directory nor one of
// bpf/include: the mesh and its judge share no header of ours.
func checkIncludes(tree fs.FS) ([]string, error) {
	var breaches []string
	for _, dir := range []string{"bpf/mesh", "bpf/probe"} {
		files, err := fs.Glob(tree, dir+"/*.[ch]")
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			src, err := fs.ReadFile(tree, file)
			if err != nil {
				return nil, err
			}
			for _, m := range includeLine.FindAllStringSubmatch(string(src), -1) {
				if !ownOrPinned(tree, dir, m[1]) {
					breaches = append(breaches, fmt.Sprintf("%s includes %s: neither of %s nor of bpf/include", file, m[1], dir))
				}
			}
		}
	}
	return breaches, nil
}

func ownOrPinned(tree fs.FS, dir, name string) bool {
	for _, from := range []string{dir, "bpf/include"} {
		file := path.Join(from, name)
		if !strings.HasPrefix(file, from+"/") {
			continue
		}
		if _, err := fs.Stat(tree, file); err == nil {
			return true
		}
	}
	return false
}

func TestProbeAndMeshShareNoHeader(t *testing.T) {
	breaches, err := checkIncludes(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range breaches {
		t.Error(b)
	}
}

func TestIncludesAreSeen(t *testing.T) {
	tree := fstest.MapFS{
		"bpf/include/vmlinux.h":  {Data: []byte("")},
		"bpf/include/bpf/help.h": {Data: []byte("")},
		"bpf/mesh/abi.h":         {Data: []byte("#include <vmlinux.h>\n#include <bpf/help.h>\n")},
		"bpf/mesh/mesh.bpf.c":    {Data: []byte("#include \"abi.h\"\n  #  include \"../probe/ring.h\"\n")},
		"bpf/probe/ring.h":       {Data: []byte("")},
		"bpf/probe/probe.bpf.c":  {Data: []byte("#include \"ring.h\"\n#include \"../mesh/abi.h\"\n#include <mesh/abi.h>\n")},
	}
	want := []string{
		"bpf/mesh/mesh.bpf.c includes ../probe/ring.h: neither of bpf/mesh nor of bpf/include",
		"bpf/probe/probe.bpf.c includes ../mesh/abi.h: neither of bpf/probe nor of bpf/include",
		"bpf/probe/probe.bpf.c includes mesh/abi.h: neither of bpf/probe nor of bpf/include",
	}
	got, err := checkIncludes(tree)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("breaches are %q, want %q", got, want)
	}
}

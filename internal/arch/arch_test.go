package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestFences(t *testing.T) {
	g := load(t)
	for _, breach := range (checker{floors, g}).check() {
		t.Error(breach)
	}
	for _, f := range floors {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(g)), func(path string) bool {
			rel, ours := relative(path)
			return ours && matches(f.pattern, rel)
		}) {
			t.Logf("no package yet on floor %d: %s", f.level, f.pattern)
		}
	}
}

// A row may name only rows below it, each once, and each that is there.
func TestTableIsAStaircase(t *testing.T) {
	level := map[string]int{}
	for _, f := range floors {
		if _, twice := level[f.pattern]; twice {
			t.Errorf("%s has two rows", f.pattern)
		}
		level[f.pattern] = f.level
	}
	for _, f := range floors {
		for _, may := range f.may {
			below, known := level[may]
			switch {
			case may == everything:
			case !known:
				t.Errorf("%s may import %s, which is no row", f.pattern, may)
			case below >= f.level:
				t.Errorf("%s (floor %d) may import %s (floor %d): not below it", f.pattern, f.level, may, below)
			}
			if f.never[may] != "" {
				t.Errorf("%s may and must never import %s", f.pattern, may)
			}
		}
	}
}

// The negative control: a graph that breaks every fence once must be reported
// for every fence, and the same graph without the breach must not.
func TestEveryFenceHolds(t *testing.T) {
	for _, f := range floors {
		pkg := example(f.pattern)
		for banned := range f.never {
			dep := example(banned)
			if !strings.Contains(dep, ".") {
				dep = absolute(dep)
			}
			// Through a package of another module, so that only "never" can see it.
			g := graph{absolute(pkg): {"example.org/between"}, "example.org/between": {dep}, dep: nil}
			mustReport(t, g, pkg+" depends on "+strings.TrimPrefix(dep, module+"/"))
			mustPass(t, graph{absolute(pkg): {"example.org/between"}, "example.org/between": nil})
		}
		for banned := range f.neverDirect {
			mustReport(t, graph{absolute(pkg): {banned}, banned: nil}, pkg+" imports "+banned)
			mustPass(t, graph{absolute(pkg): {"fmt"}, "fmt": {banned}})
		}
		for _, g := range floors {
			c := checker{floors: floors}
			dep := example(g.pattern)
			edge := graph{absolute(pkg): {absolute(dep)}, absolute(dep): nil}
			if !c.allowed(&f, dep) {
				mustReport(t, edge, pkg+" (floor")
			}
			if g.level > f.level && c.allowed(&f, dep) {
				t.Errorf("%s (floor %d) may import %s (floor %d), which is above it", pkg, f.level, dep, g.level)
			}
		}
	}
	mustReport(t, graph{absolute("internal/util"): nil}, "internal/util stands on no floor")
}

func mustReport(t *testing.T, g graph, want string) {
	t.Helper()
	got := checker{floors, g}.check()
	if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
		t.Errorf("graph %v gives %q, want a breach that begins %q", g, got, want)
	}
}

func mustPass(t *testing.T, g graph) {
	t.Helper()
	if got := (checker{floors, g}).check(); len(got) > 0 {
		t.Errorf("graph %v breaks nothing, but gives %q", g, got)
	}
}

// example returns a package that the pattern matches.
func example(pattern string) string {
	if root, below := strings.CutSuffix(pattern, "/..."); below {
		return root + "/inner"
	}
	return pattern
}

// load returns the import graph of the module without its tests, with all that
// it depends on.
func load(t *testing.T) graph {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list packages: %v\n%s", err, &stderr)
	}
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("list packages: %v", err)
		}
		g[p.ImportPath] = p.Imports
	}
	if _, ok := g[absolute("internal/arch")]; !ok || len(g) < 2 {
		t.Fatalf("the graph of %d packages lacks this one: nothing was checked", len(g))
	}
	return g
}

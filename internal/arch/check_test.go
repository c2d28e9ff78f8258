package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const module = "github.com/duomesh/duomesh"

// A graph maps each import path to what it imports directly.
type graph map[string][]string

// checker holds a table of floors against a graph.
type checker struct {
	floors []floor
	graph  graph
}

// check returns one sentence for each breach, in the order of the paths.
func (c checker) check() []string {
	var breaches []string
	for _, path := range slices.Sorted(maps.Keys(c.graph)) {
		pkg, ours := relative(path)
		if !ours {
			continue
		}
		f := c.floorOf(pkg)
		if f == nil {
			breaches = append(breaches, fmt.Sprintf("%s stands on no floor: give it a row in internal/arch and docs/architecture.md", pkg))
			continue
		}
		breaches = append(breaches, c.checkImports(pkg, f)...)
		breaches = append(breaches, c.checkNever(pkg, f)...)
	}
	return breaches
}

// checkImports holds the direct imports of pkg against what its floor allows.
func (c checker) checkImports(pkg string, f *floor) []string {
	var breaches []string
	for _, path := range c.graph[absolute(pkg)] {
		if why, banned := f.neverDirect[path]; banned {
			breaches = append(breaches, fmt.Sprintf("%s imports %s: %s", pkg, path, why))
		}
		dep, ours := relative(path)
		if !ours || c.allowed(f, dep) {
			continue
		}
		breaches = append(breaches, fmt.Sprintf("%s (floor %d) imports %s: not among what its row allows", pkg, f.level, dep))
	}
	return breaches
}

func (c checker) allowed(f *floor, dep string) bool {
	target := c.floorOf(dep)
	if target == nil {
		return true // reported as standing on no floor
	}
	if target.pattern == f.pattern || slices.Contains(f.may, target.pattern) {
		return true
	}
	return slices.Contains(f.may, everything) && target.level < f.level
}

// checkNever looks for what the floor bans in all that pkg depends on.
func (c checker) checkNever(pkg string, f *floor) []string {
	var breaches []string
	reached := c.reach(absolute(pkg))
	for _, banned := range slices.Sorted(maps.Keys(f.never)) {
		for _, path := range slices.Sorted(maps.Keys(reached)) {
			name := path
			if rel, ours := relative(path); ours {
				name = rel
			}
			if matches(banned, name) {
				breaches = append(breaches, fmt.Sprintf("%s depends on %s (%s): %s",
					pkg, name, strings.Join(c.trail(reached, path), " → "), f.never[banned]))
			}
		}
	}
	return breaches
}

// reach returns what path depends on, each with the package that led there.
func (c checker) reach(path string) map[string]string {
	from := map[string]string{}
	for queue := []string{path}; len(queue) > 0; queue = queue[1:] {
		for _, dep := range c.graph[queue[0]] {
			if _, seen := from[dep]; !seen && dep != path {
				from[dep] = queue[0]
				queue = append(queue, dep)
			}
		}
	}
	return from
}

func (c checker) trail(from map[string]string, path string) []string {
	var trail []string
	for ok := true; ok; path, ok = from[path] {
		trail = append(trail, strings.TrimPrefix(path, module+"/"))
	}
	slices.Reverse(trail)
	return trail
}

// floorOf returns the floor with the longest pattern that matches pkg.
func (c checker) floorOf(pkg string) *floor {
	var best *floor
	for i, f := range c.floors {
		if matches(f.pattern, pkg) && (best == nil || len(f.pattern) > len(best.pattern)) {
			best = &c.floors[i]
		}
	}
	return best
}

// matches reports whether name is what the pattern names, or is below it where
// the pattern ends in /...
func matches(pattern, name string) bool {
	root, below := strings.CutSuffix(pattern, "/...")
	return name == root || below && strings.HasPrefix(name, root+"/")
}

func relative(path string) (string, bool) {
	return strings.CutPrefix(path, module+"/")
}

func absolute(pkg string) string {
	return module + "/" + pkg
}

package file

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links a path may lead through, as in the
// kernel (path_resolution(7)).
const maxLinks = 40

// chain returns the directories that hold the last component of path or a
// symbolic link on the way to it: those in which a rename or a new link makes
// path lead to another file. path is absolute. It reports false when the way
// ends early because something is missing; the last directory is then the
// nearest one that exists.
func chain(path string) ([]string, bool) {
	var dirs []string
	at, rest := "/", components(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		info, err := os.Lstat(next)
		if err != nil {
			return with(dirs, at), len(rest) == 1
		}
		if info.Mode()&os.ModeSymlink == 0 {
			if len(rest) == 1 {
				dirs = with(dirs, at)
			}
			at, rest = next, rest[1:]
			continue
		}
		dirs = with(dirs, at)
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return dirs, false
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(components(target), rest[1:]...)
	}
	return dirs, true
}

// components splits a path and keeps "..", which may lead out of a link's
// target and must not be cancelled against what stands before it.
func components(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(c string) bool { return c == "" || c == "." })
}

func with(dirs []string, dir string) []string {
	if slices.Contains(dirs, dir) {
		return dirs
	}
	return append(dirs, dir)
}

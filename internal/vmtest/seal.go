package vmtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sealFile names every file of a directory of the cache with its size. A disk that was
// full, or a machine that lost its power, leaves files that are shorter.
const sealFile = ".sizes"

// seal writes down what a directory has.
func seal(dir string) error {
	sizes, err := sizesOf(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sealFile), sizes, 0o644)
}

// whole reports whether a directory has what was there when it was sealed.
func whole(dir string) bool {
	want, err := os.ReadFile(filepath.Join(dir, sealFile))
	if err != nil {
		return false
	}
	got, err := sizesOf(dir)
	return err == nil && bytes.Equal(got, want)
}

func sizesOf(dir string) ([]byte, error) {
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == sealFile {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		fmt.Fprintf(&all, "%d %s\n", st.Size(), name)
		return err
	})
	return all.Bytes(), err
}

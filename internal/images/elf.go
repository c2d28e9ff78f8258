package images

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// static fails when a program needs a dynamic linker.
func static(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("it is no program: %w", err)
	}
	return unlinked(f)
}

func unlinked(f *elf.File) error {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is not static: it names a dynamic linker")
		}
	}
	return nil
}

// machines are architectures in Go's words.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// executable makes a file one that can be run, when it is a program for an
// architecture, and static where that is asked.
func executable(file *os.File, architecture string, alone bool) error {
	f, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("it is no program: %w", err)
	}
	if want, known := machines[architecture]; !known || f.Machine != want {
		return fmt.Errorf("it is a program for %v, not for %s", f.Machine, architecture)
	}
	if alone {
		if err := unlinked(f); err != nil {
			return err
		}
	}
	return file.Chmod(0o755)
}

// libraryDirs are where Debian's packages have their libraries.
var libraryDirs = []string{"lib", "usr/lib", "lib64", "usr/lib64"}

// Closure returns the files that programs need to run: they themselves, at the
// paths given, their dynamic linker and all libraries, each found below root, a
// tree that packages were unpacked to. A library that is not there is named.
func Closure(root string, programs map[string]string) ([]File, error) {
	c := closure{root: root, found: map[string]File{}}
	for to, from := range programs {
		if err := c.add(from, to, 0o755); err != nil {
			return nil, err
		}
	}
	var all []File
	for _, f := range c.found {
		all = append(all, f)
	}
	return all, nil
}

type closure struct {
	root  string
	found map[string]File // by path in the image

	libraries map[string]string // below root, by name
}

// add takes a file and what it needs.
func (c *closure) add(from, to string, mode int64) error {
	if _, done := c.found[to]; done {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	c.found[to] = File{Path: to, Data: data, Mode: mode}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		linker := make([]byte, p.Filesz)
		if _, err := p.ReadAt(linker, 0); err != nil {
			return fmt.Errorf("%s: %w", to, err)
		}
		at := strings.TrimRight(string(linker), "\x00")
		if err := c.library(path.Base(at), at); err != nil {
			return fmt.Errorf("%s needs %w", to, err)
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	for _, lib := range needed {
		if err := c.library(lib, "/usr/lib/"+lib); err != nil {
			return fmt.Errorf("%s needs %w", to, err)
		}
	}
	return nil
}

// library takes one by its name, wherever in the library directories it is.
func (c *closure) library(name, to string) error {
	if c.libraries == nil {
		if err := c.index(); err != nil {
			return err
		}
	}
	found, ok := c.libraries[name]
	if !ok {
		return fmt.Errorf("%s, which is not below %s", name, c.root)
	}
	return c.add(found, to, 0o755)
}

// index lists the libraries by their names; the first directory has precedence.
func (c *closure) index() error {
	c.libraries = map[string]string{}
	for _, dir := range libraryDirs {
		err := filepath.WalkDir(filepath.Join(c.root, dir), func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".so") {
				return err
			}
			if _, had := c.libraries[d.Name()]; !had {
				c.libraries[d.Name()] = p
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

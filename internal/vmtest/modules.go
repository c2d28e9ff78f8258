package vmtest

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// moduleTree is the modules of one kernel, by name.
type moduleTree struct {
	files   map[string]string // name → path
	builtin map[string]bool
}

// readModules lists the modules below dir, lib/modules/RELEASE.
func readModules(dir string) (*moduleTree, error) {
	t := &moduleTree{files: map[string]string{}, builtin: map[string]bool{}}
	if dir == "" {
		return t, nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".ko") && d.Type().IsRegular() {
			t.files[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	return t, nil
}

// moduleName is how the kernel calls the module in a file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder returns the files of modules of the tree at dir, and of those that they
// need, in the order of loading.
func loadOrder(dir string, names []string, scratch string) ([]string, error) {
	modules, err := readModules(dir)
	if err != nil {
		return nil, err
	}
	return modules.order(names, scratch)
}

// order returns the files of modules and all that they depend on, in the order
// of loading. Compressed ones are unpacked into the directory scratch.
func (t *moduleTree) order(names []string, scratch string) ([]string, error) {
	var files []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if done[name] || t.builtin[name] {
			return nil
		}
		done[name] = true
		path, ok := t.files[name]
		if !ok {
			return fmt.Errorf("module %s: the kernel has no such module", name)
		}
		path, err := unpacked(path, scratch)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		needs, err := dependencies(path)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		files = append(files, path)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return slices.Clip(files), nil
}

// unpacked is a module's file, not compressed. A machine could load it as it is,
// but for kernels without CONFIG_MODULE_DECOMPRESS; and its dependencies are read
// here.
func unpacked(path, scratch string) (string, error) {
	name, compressed := strings.CutSuffix(filepath.Base(path), ".xz")
	if !compressed {
		return path, nil
	}
	packed, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer packed.Close()
	from, err := xz.NewReader(bufio.NewReader(packed))
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", path, err)
	}
	to := filepath.Join(scratch, name)
	if err := writeFile(to, from); err != nil {
		return "", fmt.Errorf("unpack %s: %w", path, err)
	}
	return to, nil
}

// dependencies reads what modinfo(8) prints as "depends".
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read %s (of compressed modules only .xz is supported): %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no section .modinfo", path)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	for field := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

package vmtest

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
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
		info, err := readModinfo(path)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		soft, err := t.softly(info.before, scratch)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range slices.Concat(info.needs, soft) {
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

// softly resolves soft dependencies, which may name an alias: "crc32c" is whatever
// implements it. One that this kernel has in no form is left out, as modprobe(8) does.
func (t *moduleTree) softly(names []string, scratch string) ([]string, error) {
	var found []string
	for _, name := range names {
		name = strings.ReplaceAll(name, "-", "_")
		if t.builtin[name] || t.files[name] != "" {
			found = append(found, name)
			continue
		}
		module, err := t.implementing(name, scratch)
		if err != nil {
			return nil, err
		}
		if module != "" {
			found = append(found, module)
		}
	}
	return found, nil
}

// implementing is the first module, by name, that is called after an alias and has it;
// "" where there is none or one is built in.
func (t *moduleTree) implementing(alias, scratch string) (string, error) {
	for name := range t.builtin {
		if strings.HasPrefix(name, alias+"_") {
			return "", nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		if !strings.HasPrefix(name, alias+"_") {
			continue
		}
		path, err := unpacked(t.files[name], scratch)
		if err != nil {
			return "", err
		}
		info, err := readModinfo(path)
		if err != nil {
			return "", err
		}
		if slices.Contains(info.aliases, alias) {
			return name, nil
		}
	}
	return "", nil
}

// modinfo is what a module says of itself.
type modinfo struct {
	needs   []string // without which it does not load
	before  []string // what is to be loaded before it, where it is there
	aliases []string
}

// readModinfo reads what modinfo(8) prints as "depends", "softdep" and "alias".
func readModinfo(path string) (modinfo, error) {
	f, err := elf.Open(path)
	if err != nil {
		return modinfo{}, fmt.Errorf("read %s (of compressed modules only .xz is supported): %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return modinfo{}, fmt.Errorf("%s has no section .modinfo", path)
	}
	data, err := section.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("read %s: %w", path, err)
	}
	return parseModinfo(data), nil
}

func parseModinfo(section []byte) modinfo {
	var m modinfo
	for field := range bytes.SplitSeq(section, []byte{0}) {
		switch key, value, _ := strings.Cut(string(field), "="); key {
		case "depends":
			m.needs = append(m.needs, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep": // "pre: a b post: c"
			value, _, _ = strings.Cut(value, "post:")
			m.before = append(m.before, strings.Fields(strings.TrimPrefix(strings.TrimSpace(value), "pre:"))...)
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m
}

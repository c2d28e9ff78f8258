package vmtest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/duomesh/duomesh/internal/kernel"
)

//go:embed kernels.yaml
var builtin []byte

// Kernel is one entry of the matrix.
type Kernel struct {
	// Name is unique in the matrix.
	Name   string `yaml:"name"`
	Source Source `yaml:"source"`
	// Default is false for a kernel that runs only when asked for by name; nil
	// is true.
	Default *bool `yaml:"default"`
	// Modules are loaded, with all that they depend on, before the tests. One
	// that is built in need not be there.
	Modules []string `yaml:"modules"`
	// Runs are the only ones that are run, by name, unless everything is; none
	// given are all.
	Runs []string `yaml:"runs"`
	// Promises and Lacks are features by name, as internal/kernel has them.
	Promises []string `yaml:"promises"`
	Lacks    []string `yaml:"lacks"`
}

// Source says where a kernel comes from. Exactly one field is set, but for Suite.
type Source struct {
	// Deb is a Debian package, or one that depends on the kernel's.
	Deb string `yaml:"deb"`
	// Suite is the Debian release that Deb is taken from, by lists of its own;
	// empty takes what this machine's apt offers.
	Suite string `yaml:"suite"`
	// GoMod is module@version of a Go module with vmlinuz and lib/modules.
	GoMod string `yaml:"gomod"`
	// File is the path of a bzImage; modules are in lib/modules beside it.
	File string `yaml:"file"`
	// Image is a container image with boot/vmlinuz and lib/modules.
	Image string `yaml:"image"`
}

// Promised reports whether a feature is promised.
func (k Kernel) Promised(feature string) bool { return slices.Contains(k.Promises, feature) }

// Matrix is the kernels to choose from.
type Matrix []Kernel

// Load reads a matrix, strictly: an unknown key or a contradiction is an error
// that names it. An empty path is the matrix of this build.
func Load(path string) (Matrix, error) {
	data := builtin
	if path != "" {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read kernel matrix: %w", err)
		}
	}
	var file struct {
		Kernels Matrix `yaml:"kernels"`
	}
	if err := yaml.UnmarshalWithOptions(data, &file, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read kernel matrix: %w", err)
	}
	if err := file.Kernels.validate(); err != nil {
		return nil, fmt.Errorf("read kernel matrix: %w", err)
	}
	return file.Kernels, nil
}

func (m Matrix) validate() error {
	if len(m) == 0 {
		return errors.New("it names no kernel")
	}
	seen := map[string]bool{}
	for _, k := range m {
		switch {
		case k.Name == "" || strings.ContainsAny(k.Name, "/, "):
			return fmt.Errorf("kernel name %q: must be one word, without a slash or comma", k.Name)
		case slices.Contains(taken, k.Name):
			return fmt.Errorf("kernel name %q is taken for something else", k.Name)
		case seen[k.Name]:
			return fmt.Errorf("kernel %s is named twice", k.Name)
		}
		seen[k.Name] = true
		if n := len(k.Source.given()); n != 1 {
			return fmt.Errorf("kernel %s has %d sources, must have one", k.Name, n)
		}
		if k.Source.Suite != "" && k.Source.Deb == "" {
			return fmt.Errorf("kernel %s has a suite, which belongs to a Debian package", k.Name)
		}
		known := append(plan(false), more(k)...)
		for _, name := range k.Runs {
			if len(named(known, []string{name})) == 0 {
				return fmt.Errorf("kernel %s has a run %s, which does not exist", k.Name, name)
			}
		}
		if err := k.validateFeatures(); err != nil {
			return err
		}
	}
	return nil
}

// taken are other things in the directory of results, and the table's own column.
var taken = []string{".", "..", "bin", kvmTrial, hostKernel}

// validateFeatures: a name that doctor does not know would be found out only after the
// kernel has been brought and booted.
func (k Kernel) validateFeatures() error {
	var known []string
	for _, f := range kernel.Features() {
		known = append(known, f.Name)
	}
	for _, f := range slices.Concat(k.Promises, k.Lacks) {
		switch {
		case !slices.Contains(known, f):
			return fmt.Errorf("kernel %s: unknown feature %q; those of duomesh doctor are %s", k.Name, f, strings.Join(known, ", "))
		case k.Promised(f) && slices.Contains(k.Lacks, f):
			return fmt.Errorf("kernel %s both promises and lacks %s", k.Name, f)
		}
	}
	return nil
}

func (s Source) given() []string {
	all := []string{s.Deb, s.GoMod, s.File, s.Image}
	return slices.DeleteFunc(all, func(v string) bool { return v == "" })
}

// Choose returns the kernels of the given names; none given are the default
// ones.
func (m Matrix) Choose(names []string) (Matrix, error) {
	var chosen Matrix
	if len(names) == 0 {
		for _, k := range m {
			if k.Default == nil || *k.Default {
				chosen = append(chosen, k)
			}
		}
		return chosen, nil
	}
	for _, name := range names {
		i := slices.IndexFunc(m, func(k Kernel) bool { return k.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown kernel %s; the matrix has %s", name, strings.Join(m.Names(), ", "))
		}
		chosen = append(chosen, m[i])
	}
	return chosen, nil
}

// Making splits kernels into those that make any of the runs Only, and those that make
// none: a machine that runs nothing must not pass. Without Only all make some.
func (c Config) Making() (some, none Matrix) {
	r := &runner{Config: c, plan: plan(c.Full)}
	for _, k := range c.Kernels {
		if len(r.planFor(k)) > 0 {
			some = append(some, k)
		} else {
			none = append(none, k)
		}
	}
	return some, none
}

// Names are those of its kernels, in its order.
func (m Matrix) Names() []string {
	var names []string
	for _, k := range m {
		names = append(names, k.Name)
	}
	return names
}

package trace

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

// MaxFunctions is how many functions are counted at most.
const MaxFunctions = 500

// Chosen are the functions of a glob.
type Chosen struct {
	// Names are those that are to be counted, sorted, MaxFunctions at most.
	Names []string
	// Matched is how many the glob has. Over are those beyond the limit, Twice
	// those whose name is not the name of one alone.
	Matched, Over, Twice int
}

// Choose lists the functions of the running kernel whose names match one of the
// globs (path.Match). Those of modules are not among them.
func Choose(globs []string) (Chosen, error) {
	var c Chosen
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil {
			return c, fmt.Errorf("function glob %q: %w", g, err)
		}
	}
	names, err := traceable()
	if err != nil {
		return c, err
	}
	return choose(names, globs), nil
}

func choose(names map[string]int, globs []string) Chosen {
	var c Chosen
	for name, times := range names {
		if !slices.ContainsFunc(globs, func(g string) bool { ok, _ := path.Match(g, name); return ok }) {
			continue
		}
		c.Matched++
		if times > 1 {
			c.Twice++
			continue
		}
		c.Names = append(c.Names, name)
	}
	slices.Sort(c.Names)
	if n := len(c.Names); n > MaxFunctions {
		c.Names, c.Over = c.Names[:MaxFunctions], n-MaxFunctions
	}
	return c
}

// traceable counts the functions at which the kernel lets programs stand, by name.
func traceable() (map[string]int, error) {
	f, err := kernel.OpenTracefs("available_filter_functions")
	if err != nil {
		return nil, fmt.Errorf("list functions of the kernel: %w", err)
	}
	defer f.Close()
	names := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, module, _ := strings.Cut(lines.Text(), " ")
		if module == "" && !strings.HasPrefix(name, "__ftrace_invalid_address__") {
			names[name]++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list functions of the kernel: %w", err)
	}
	return names, nil
}

// symbol is a function and where it begins.
type symbol struct {
	address uint64
	name    string
}

// symbols reads the kernel's own table of functions, sorted by address. Where the
// kernel hides addresses they are all 0.
func symbols() ([]symbol, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's symbols: %w", err)
	}
	defer f.Close()
	var all []symbol
	for lines := bufio.NewScanner(f); lines.Scan(); {
		f := strings.Fields(lines.Text()) // address, kind, name, and perhaps module
		if len(f) < 3 || !strings.EqualFold(f[1], "t") {
			continue
		}
		address, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil {
			return nil, fmt.Errorf("read the kernel's symbols: %w", err)
		}
		all = append(all, symbol{address, f[2]})
	}
	slices.SortStableFunc(all, func(a, b symbol) int { return cmp.Compare(a.address, b.address) })
	return all, nil
}

// Command runcwrap stands before runc where this machine's processes lack
// capabilities: a container engine that is asked for a privileged container asks
// for every capability that it knows, and runc refuses what cannot be given. It
// takes the missing ones out of the container's specification, and becomes runc.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	err := run()
	fmt.Fprintln(os.Stderr, "runcwrap:", err)
	os.Exit(127)
}

// run returns only with an error.
func run() error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	bounds, err := bounding("/proc/self/status")
	if err != nil {
		return err
	}
	file, inProcess := specification(os.Args[1:])
	if file != "" {
		if err := confine(file, inProcess, bounds); err != nil {
			return fmt.Errorf("take capabilities that this machine lacks out of %s: %w", file, err)
		}
	}
	return syscall.Exec(runc, append([]string{"runc"}, os.Args[1:]...), os.Environ())
}

// bounding reads the capability bounding set.
func bounding(status string) (uint64, error) {
	text, err := os.ReadFile(status)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, fmt.Errorf("%s names no bounding set", status)
}

// specification finds the file that names capabilities in runc's arguments, and
// whether it is that of a whole container, where they are below process.
func specification(args []string) (file string, inProcess bool) {
	command, bundle, process := "", ".", ""
	for i, a := range args {
		switch a {
		case "create", "run", "exec":
			if command == "" {
				command = a
			}
		case "--bundle", "-b":
			bundle = after(args, i)
		case "--process", "-p":
			process = after(args, i)
		}
	}
	switch command {
	case "create", "run":
		return filepath.Join(bundle, "config.json"), true
	case "exec":
		return process, false
	}
	return "", false
}

func after(args []string, i int) string {
	if i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// confine drops what the bounds lack from every list of capabilities in a file.
func confine(file string, inProcess bool, bounds uint64) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&spec); err != nil {
		return err
	}
	of := spec
	if inProcess {
		var ok bool
		if of, ok = spec["process"].(map[string]any); !ok {
			return errors.New("it has no process")
		}
	}
	lists, _ := of["capabilities"].(map[string]any)
	for name, list := range lists {
		all, _ := list.([]any)
		lists[name] = within(all, bounds)
	}
	text, err = json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func within(all []any, bounds uint64) []any {
	kept := []any{}
	for _, c := range all {
		n, known := numbers[fmt.Sprint(c)]
		if !known || bounds&(1<<n) != 0 {
			kept = append(kept, c)
		}
	}
	return kept
}

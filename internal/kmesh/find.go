package kmesh

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Node says where to look. Paths are of this process.
type Node struct {
	// Proc is a procfs, BPFFS a BPF file system.
	Proc, BPFFS string
	// NetDir and BinDir are those of the container runtime's CNI; State is where Kmesh
	// keeps files and mounts a cgroup.
	NetDir, BinDir, State string
}

// Here is the node that this process runs on.
func Here() Node {
	return Node{Proc: "/proc", BPFFS: "/sys/fs/bpf", NetDir: "/etc/cni/net.d", BinDir: "/opt/cni/bin", State: "/mnt"}
}

// Found is one thing that Kmesh has on the node.
type Found struct {
	// Step is when to take it away: what has a lower one goes first.
	Step int `json:"step"`
	// What it is, Where, and what it does as long as it is there.
	What   string `json:"what"`
	Where  string `json:"where"`
	Effect string `json:"effect"`
	// Remove is what to do about it.
	Remove string `json:"remove"`
}

// The steps. The daemon goes first, since it writes again what is taken away; then what
// leads new pods to it, then what works on connections, then what only lies there.
const (
	stepDaemon = iota + 1
	stepCNI
	stepLinks
	stepPrograms
	stepMaps
	stepMount
	stepFiles
)

// Find lists what is there, in the order in which to take it away. An error is of what
// could not be looked at; the rest is listed all the same.
func Find(n Node) ([]Found, error) {
	var all []Found
	var errs []error
	for _, look := range []func(Node) ([]Found, error){daemons, chains, plugins, pinned, programs, mounts, files} {
		found, err := look(n)
		all = append(all, found...)
		errs = append(errs, err)
	}
	slices.SortStableFunc(all, func(a, b Found) int { return a.Step - b.Step })
	return all, errors.Join(errs...)
}

func daemons(n Node) ([]Found, error) {
	comms, err := filepath.Glob(filepath.Join(n.Proc, "[0-9]*", "comm"))
	if err != nil {
		return nil, fmt.Errorf("look for Kmesh's daemon: %w", err)
	}
	var all []Found
	for _, path := range comms {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		name := strings.TrimSpace(string(data))
		if name != "kmesh-daemon" && name != "mdacore" {
			continue
		}
		all = append(all, Found{
			Step: stepDaemon, What: "process " + name, Where: "pid " + filepath.Base(filepath.Dir(path)),
			Effect: "it keeps maps, pins and the CNI entry up to date, and writes them again",
			Remove: "keep Kmesh's DaemonSet off this node by a node affinity: the daemon ends and leaves what follows. " +
				"On the last node: helm uninstall kmesh -n kmesh-system: with its object gone the daemon takes most of it along",
		})
	}
	return all, nil
}

// chains finds CNI configurations with Kmesh's plugin.
func chains(n Node) ([]Found, error) {
	paths, err := filepath.Glob(filepath.Join(n.NetDir, "*.conflist"))
	if err != nil {
		return nil, fmt.Errorf("look for CNI configurations: %w", err)
	}
	var all []Found
	var errs []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("read CNI configuration: %w", err))
			continue
		}
		var list struct{ Plugins []struct{ Type string } }
		if err := json.Unmarshal(data, &list); err != nil {
			errs = append(errs, fmt.Errorf("CNI configuration %s: %w", path, err))
			continue
		}
		if slices.ContainsFunc(list.Plugins, func(p struct{ Type string }) bool { return p.Type == pluginName }) {
			all = append(all, Found{
				Step: stepCNI, What: "CNI entry " + pluginName, Where: path,
				Effect: "every new pod of the node is passed to Kmesh, and does not start where Kmesh does not answer",
				Remove: `take the element of "type": "kmesh-cni" out of "plugins"`,
			})
		}
	}
	return all, errors.Join(errs...)
}

const pluginName = "kmesh-cni"

func plugins(n Node) ([]Found, error) {
	var all []Found
	for _, f := range []struct{ path, effect string }{
		{filepath.Join(n.BinDir, pluginName), "none by itself; remove it after the entry that calls it"},
		{filepath.Join(n.NetDir, pluginName+"-kubeconfig"), "none by itself; it holds a token"},
	} {
		if exists(f.path) {
			all = append(all, Found{Step: stepFiles, What: "file", Where: f.path, Effect: f.effect, Remove: "rm " + f.path})
		}
	}
	return all, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mounts finds the cgroup hierarchy that Kmesh's start script mounts.
func mounts(n Node) ([]Found, error) {
	f, err := os.Open(filepath.Join(n.Proc, "self", "mountinfo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	var all []Found
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// "36 35 98:0 /root /mount/point options - type source options": proc(5)
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || filepath.Base(fields[4]) != cgroupMount {
			continue
		}
		all = append(all, Found{
			Step: stepMount, What: "cgroup mount", Where: fields[4],
			Effect: "Kmesh's programs are attached to its root: they run for every process of the machine",
			Remove: "umount " + fields[4] + ", once no program is attached",
		})
	}
	return all, lines.Err()
}

const cgroupMount = "kmesh_cgroup2"

func files(n Node) ([]Found, error) {
	var all []Found
	for _, name := range []string{"workload_hash_name.yaml", "kmesh_mapspecs"} {
		if path := filepath.Join(n.State, name); exists(path) {
			all = append(all, Found{
				Step: stepFiles, What: "file", Where: path,
				Effect: "none by itself; the next Kmesh would take over by it", Remove: "rm -r " + path,
			})
		}
	}
	return all, nil
}

func id(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

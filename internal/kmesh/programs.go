package kmesh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// pinned finds the directories of pins, one for each mode of Kmesh.
func pinned(n Node) ([]Found, error) {
	roots, err := filepath.Glob(filepath.Join(n.BPFFS, "bpf_kmesh*"))
	if err != nil {
		return nil, fmt.Errorf("look for pins: %w", err)
	}
	var all []Found
	var errs []error
	for _, root := range roots {
		links, others := 0, 0
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if found, ok := pinnedLink(path); ok {
				all = append(all, found)
				links++
			} else {
				others++
			}
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("look for pins: %w", err))
		}
		all = append(all, Found{
			Step: stepMaps, What: fmt.Sprintf("directory of pins (%d links, %d maps and programs)", links, others), Where: root,
			Effect: "what is pinned stays loaded without a process, and the next Kmesh takes it over",
			Remove: "rm -r " + root + ", after the links",
		})
	}
	return all, errors.Join(errs...)
}

// pinnedLink is what a pin attaches, false when it is no link.
func pinnedLink(path string) (Found, bool) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return Found{}, false
	}
	defer l.Close()
	f := Found{
		Step: stepLinks, What: "link", Where: path,
		Effect: "its program works on connections: from then on they go where nobody but this engine sends them",
		Remove: "rm " + path,
	}
	if info, err := l.Info(); err == nil {
		f.What = "link of " + programName(info.Program)
		if c := info.Cgroup(); c != nil {
			f.Effect = fmt.Sprintf("it runs at every %s of cgroup %d and below, beside and before other meshes' programs", c.AttachType, c.CgroupId)
		}
	}
	return f, true
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "a program"
	}
	defer p.Close()
	if info, err := p.Info(); err == nil {
		return info.Name
	}
	return "a program"
}

// programs finds those that are loaded, by the maps that they use: their names alone are
// also others'.
func programs(Node) ([]Found, error) {
	var all []Found
	maps := map[ebpf.MapID]string{}
	for at := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(at)
		if errors.Is(err, os.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("list programs: %w", err)
		}
		at = next
		if f, ok := program(at, maps); ok {
			all = append(all, f)
		}
	}
}

func program(at ebpf.ProgramID, maps map[ebpf.MapID]string) (Found, bool) {
	p, err := ebpf.NewProgramFromID(at)
	if err != nil {
		return Found{}, false // it has gone
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return Found{}, false
	}
	used, _ := info.MapIDs()
	var names []string
	for _, m := range used {
		if name := mapName(m, maps); isKmeshs(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return Found{}, false
	}
	slices.Sort(names)
	return Found{
		Step: stepPrograms, What: fmt.Sprintf("program %s (%s)", info.Name, info.Type),
		Where: "id " + id(uint32(at)) + ", maps " + strings.Join(names, ", "), Effect: effectOf(info.Type), Remove: removalOf(info.Type),
	}, true
}

func isKmeshs(mapName string) bool {
	return strings.HasPrefix(mapName, "km_") || strings.HasPrefix(mapName, "kmesh_")
}

func mapName(id ebpf.MapID, known map[ebpf.MapID]string) string {
	if name, there := known[id]; there {
		return name
	}
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return ""
	}
	defer m.Close()
	if info, err := m.Info(); err == nil {
		known[id] = info.Name
	}
	return known[id]
}

func effectOf(t ebpf.ProgramType) string {
	switch t {
	case ebpf.CGroupSockAddr:
		return "it rewrites where connections of Kmesh's pods go, before or after ours does"
	case ebpf.SockOps, ebpf.SkMsg:
		return "it puts Kmesh's metadata in front of what is sent to a waypoint"
	case ebpf.XDP:
		return "it throws away packets that Kmesh's policies do not allow, and halves the throughput to its pod"
	case ebpf.SchedCLS:
		return "it marks packets for Kmesh's IPsec, and takes other marks away"
	}
	return "it works on Kmesh's connections"
}

func removalOf(t ebpf.ProgramType) string {
	switch t {
	case ebpf.XDP:
		return "it is attached inside pods, without a pin: restart them, or in each `ip link set dev eth0 xdp off`"
	case ebpf.SchedCLS:
		return "`tc filter del` at the interface that `bpftool net` names"
	}
	return "it goes with its link, or with the map that it is attached to"
}

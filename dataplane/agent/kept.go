package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// kept is what the next agent needs to know of a pod.
type kept struct {
	Name string `json:"name"`
	// Cgroup is "" while only the network namespace is known: a CNI plugin has no
	// cgroup to show.
	Cgroup   string   `json:"cgroup"`
	CgroupID cgroupID `json:"cgroup_id"`
	Netns    uint64   `json:"netns"`
	Cookie   uint64   `json:"cookie"`
	// Waypoint is the hand-off port of a waypoint's pod, 0 for an enrolled one.
	Waypoint uint16 `json:"waypoint,omitempty"`
	// Older is how many connections the pod had made when it was enrolled, Ended how
	// many of them were ended.
	Older   int    `json:"older,omitempty"`
	Ended   int    `json:"ended,omitempty"`
	UID     string `json:"uid,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
}

// keptFile is the form of Config.State.
type keptFile struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	Pods    []kept `json:"pods"`
}

const (
	keptSchema  = "duomesh/enrolled"
	keptVersion = 1
)

// save writes the file; a reader has the old or the new one whole.
func (p *pods) save() error {
	f := keptFile{Schema: keptSchema, Version: keptVersion, Pods: []kept{}}
	for _, e := range p.known {
		f.Pods = append(f.Pods, e.kept)
	}
	slices.SortFunc(f.Pods, func(a, b kept) int { return strings.Compare(a.Name, b.Name) })
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("keep enrolments: %w", err)
	}
	if err := os.WriteFile(p.file+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep enrolments: %w", err)
	}
	if err := os.Rename(p.file+".new", p.file); err != nil {
		return fmt.Errorf("keep enrolments: %w", err)
	}
	return nil
}

// readKept returns what an earlier agent kept, nothing where there was none.
func readKept(path string) ([]kept, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kept enrolments: %w", err)
	}
	var f keptFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read kept enrolments: %s: %w", path, err)
	}
	if f.Schema != keptSchema || f.Version != keptVersion {
		return nil, fmt.Errorf("kept enrolments %s are %q version %d, this build reads %s version %d",
			path, f.Schema, f.Version, keptSchema, keptVersion)
	}
	return f.Pods, nil
}

package l4

import (
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Neighbour is a program of someone else that runs for connections from the
// node's cgroup, and may change an address before or after the engine's.
type Neighbour struct {
	// Hook is the attach point, for example CGroupInet4Connect.
	Hook string
	// Program is the name that the kernel keeps, at most 15 bytes.
	Program string
	ID      uint32
}

// Neighbours returns what was found when the engine was opened. Programs on
// cgroups below the node's are not seen.
func (e *Engine) Neighbours() []Neighbour { return slices.Clone(e.neighbors) }

func neighboursOf(cgroup *os.File, ours []*hook) ([]Neighbour, error) {
	var found []Neighbour
	for _, h := range ours {
		ids, err := attached(cgroup, h.attach, unix.BPF_F_QUERY_EFFECTIVE)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if id == h.id {
				continue
			}
			name, err := programName(id)
			if err != nil {
				return nil, err
			}
			found = append(found, neighbour(h.attach, name, id))
		}
	}
	return found, nil
}

func neighbour(attach ebpf.AttachType, name string, id ebpf.ProgramID) Neighbour {
	return Neighbour{Hook: attach.String(), Program: name, ID: uint32(id)}
}

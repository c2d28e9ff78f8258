package l4

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Neighbour is a program of someone else that runs for connections of the node, or
// of one of its pods.
type Neighbour struct {
	// Hook is the attach point, for example CGroupInet4Connect.
	Hook string
	// Program is the name that the kernel keeps, at most 15 bytes.
	Program string
	ID      uint32
	// Before is set when it runs before the engine's program: it may change what
	// the engine sees. Else it may change what the engine chose.
	Before bool
	// Pod is the pod whose cgroup has it; "" for the node's, or one above.
	Pod string
}

// String is for people.
func (n Neighbour) String() string {
	where := "after"
	if n.Before {
		where = "before"
	}
	s := fmt.Sprintf("%s (id %d) at %s, %s the engine", n.Program, n.ID, n.Hook, where)
	if n.Pod != "" {
		s += ", of pod " + n.Pod
	}
	return s
}

// Neighbours returns the programs of others: those of the node as they are now, and
// those that were found at pods when they were enrolled.
func (e *Engine) Neighbours() []Neighbour {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		if now, err := e.neighboursOf(e.host.Cgroup, ""); err != nil {
			e.log.Error("the programs of others are not known", "err", err)
		} else {
			e.neighbors = now
		}
	}
	all := slices.Clone(e.neighbors)
	for _, cookie := range slices.Sorted(maps.Keys(e.beside)) {
		all = append(all, e.beside[cookie]...)
	}
	return all
}

// meetNode finds the programs of others on the node's cgroup, and whether the
// engine works beside them.
func (e *Engine) meetNode() (err error) {
	if e.neighbors, err = e.neighboursOf(e.host.Cgroup, ""); err != nil {
		return err
	}
	e.name(e.neighbors)
	if !atConnect(e.neighbors) {
		return nil
	}
	return e.tested(e.host.Cgroup, e.neighbors)
}

// meetPod does the same for what runs at a pod's cgroup and not at the node's.
func (e *Engine) meetPod(cookie uint64, p Pod) error {
	all, err := e.neighboursOf(p.Cgroup, p.Name)
	if err != nil {
		return err
	}
	node, err := e.neighboursOf(e.host.Cgroup, "")
	if err != nil {
		return err
	}
	own := slices.DeleteFunc(all, func(n Neighbour) bool {
		return slices.ContainsFunc(node, func(known Neighbour) bool { return known.ID == n.ID && known.Hook == n.Hook })
	})
	delete(e.beside, cookie)
	if len(own) == 0 {
		return nil
	}
	if atConnect(own) {
		if err := e.tested(p.Cgroup, own); err != nil {
			return err
		}
	}
	e.name(own)
	e.beside[cookie] = own
	return nil
}

func (e *Engine) name(found []Neighbour) {
	for _, n := range found {
		e.log.Warn("another program is on the path of connections",
			"hook", n.Hook, "program", n.Program, "id", n.ID, "before", n.Before, "pod", n.Pod)
	}
}

// atConnect is true when one of these runs at connect().
func atConnect(all []Neighbour) bool {
	return slices.ContainsFunc(all, func(n Neighbour) bool {
		return n.Hook == ebpf.AttachCGroupInet4Connect.String() || n.Hook == ebpf.AttachCGroupInet6Connect.String()
	})
}

// neighboursOf lists the programs of others that run for a cgroup, in the order in
// which they run: the kernel runs those of a cgroup before those of its parent.
func (e *Engine) neighboursOf(cgroup *os.File, pod string) ([]Neighbour, error) {
	var found []Neighbour
	for _, h := range e.hooks {
		ids, err := attached(cgroup, h.attach, unix.BPF_F_QUERY_EFFECTIVE)
		if err != nil {
			return nil, err
		}
		ours := slices.Index(ids, h.id)
		for i, id := range ids {
			if id == h.id {
				continue
			}
			name, err := programName(id)
			if err != nil {
				return nil, err
			}
			found = append(found, Neighbour{
				Hook: h.attach.String(), Program: name, ID: uint32(id), Before: i < ours, Pod: pod,
			})
		}
	}
	return found, nil
}

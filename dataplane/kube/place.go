package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Places finds pods on the node by their UID.
type Places struct {
	// Cgroup is the node's directory in the cgroup v2 hierarchy.
	Cgroup string
	// Proc is the node's /proc.
	Proc string
}

// Found is a pod's place. The caller closes Netns.
type Found struct {
	// Cgroup is the pod's own directory; that of the node where the pods have none
	// in this hierarchy.
	Cgroup string
	Netns  *os.File
	// Inode is Netns's.
	Inode uint64
	// Started is when the oldest process in it was.
	Started time.Time
}

// podDirectory are the names that kubelet gives: podUID of driver cgroupfs, and
// …-podUID.slice of driver systemd, which turns dashes into underscores.
var podDirectory = regexp.MustCompile(`^(?:pod|.*-pod)([0-9a-f][0-9a-f_-]{30,})(?:\.slice)?$`)

// deepest is how far below the node's directory pods may be:
// kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/… is 4.
const deepest = 6

// Directory returns the cgroup directory of a UID, fs.ErrNotExist in the chain
// when there is none.
func (p Places) Directory(uid string) (string, error) {
	if uid == "" {
		return "", fmt.Errorf("cgroup of a pod without a UID: %w", fs.ErrNotExist)
	}
	found := ""
	err := filepath.WalkDir(p.Cgroup, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has ended meanwhile
			return fs.SkipDir
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		if m := podDirectory.FindStringSubmatch(d.Name()); m != nil {
			if strings.ReplaceAll(m[1], "_", "-") == uid {
				found = path
				return fs.SkipAll
			}
			return fs.SkipDir
		}
		if rel, err := filepath.Rel(p.Cgroup, path); err != nil || strings.Count(rel, "/") >= deepest {
			return errors.Join(err, fs.SkipDir)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look for the cgroup of pod UID %s: %w", uid, err)
	}
	if found == "" {
		return "", fmt.Errorf("no cgroup of pod UID %s below %s: %w", uid, p.Cgroup, fs.ErrNotExist)
	}
	return found, nil
}

// errNoProcess says that a pod has no process in a network namespace of its own.
var errNoProcess = errors.New("no process of it is in a network namespace that a container runtime has made for it")

// Want says which pod is looked for.
type Want struct {
	UID string
	// Netns is the inode of the namespace that the agent has for the pod, and holds: it
	// is the pod's as long as a process of the pod is in it. 0 is none.
	Netns uint64
	// Users is set for a pod that has a user namespace of its own, which its network
	// namespace may belong to.
	Users bool
}

// Find returns where a pod that runs is. A pod whose cgroups are in other
// hierarchies only, as on hosts with both versions and driver cgroupfs, is found by
// what /proc says of its processes.
func (p Places) Find(w Want) (Found, error) {
	dir, err := p.Directory(w.UID)
	if errors.Is(err, fs.ErrNotExist) {
		return p.byProc(w)
	}
	if err != nil {
		return Found{}, err
	}
	member := func() ([]string, error) { return processes(dir) }
	return p.choose(Found{Cgroup: dir}, w, member)
}

func (p Places) byProc(w Want) (Found, error) {
	if w.UID == "" {
		return Found{}, errNoProcess
	}
	member := func() ([]string, error) { return p.named(w.UID) }
	return p.choose(Found{Cgroup: p.Cgroup}, w, member)
}

// netns opens the network namespace of a process that is a member all the while,
// nil when it is not.
func (p Places) netns(pid string, members func() ([]string, error)) (*os.File, uint64) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return nil, 0
	}
	held, err := unix.PidfdOpen(n, 0)
	if err != nil {
		return nil, 0
	}
	defer unix.Close(held)
	if now, err := members(); err != nil || !slices.Contains(now, pid) {
		return nil, 0
	}
	ns, err := os.Open(filepath.Join(p.Proc, pid, "ns/net"))
	if err != nil {
		return nil, 0
	}
	var st unix.Stat_t
	if unix.PidfdSendSignal(held, 0, nil, 0) != nil || unix.Fstat(int(ns.Fd()), &st) != nil {
		ns.Close()
		return nil, 0
	}
	return ns, st.Ino
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Ino, nil
}

// processes are those at and below a cgroup directory.
func processes(dir string) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		procs, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		all = append(all, strings.Fields(string(procs))...)
		return nil
	})
	return all, err
}

// named are the processes whose cgroups, of whatever hierarchy, carry the UID.
func (p Places) named(uid string) ([]string, error) {
	entries, err := os.ReadDir(p.Proc)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(p.Proc, e.Name(), "cgroup"))
		if err == nil && strings.Contains(strings.ReplaceAll(string(text), "_", "-"), "pod"+uid) {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

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
var errNoProcess = errors.New("no process of it is in a network namespace of its own")

// Find returns where a pod that runs is. A pod whose cgroups are in other
// hierarchies only, as on hosts with both versions and driver cgroupfs, is found by
// what /proc says of its processes.
func (p Places) Find(uid string) (Found, error) {
	dir, err := p.Directory(uid)
	if errors.Is(err, fs.ErrNotExist) {
		return p.byProc(uid)
	}
	if err != nil {
		return Found{}, err
	}
	member := func() ([]string, error) { return processes(dir) }
	return p.first(Found{Cgroup: dir}, uid, member)
}

func (p Places) byProc(uid string) (Found, error) {
	if uid == "" {
		return Found{}, errNoProcess
	}
	member := func() ([]string, error) { return p.named(uid) }
	return p.first(Found{Cgroup: p.Cgroup}, uid, member)
}

// first opens the namespace of the first member that has one of its own. members
// is asked again once the process is held, so that a process that has ended and
// left its number to another is not taken for the pod's.
func (p Places) first(f Found, uid string, members func() ([]string, error)) (Found, error) {
	// Not self: that is the first thread, which InNetns may have used up.
	own, err := inode(filepath.Join(p.Proc, "thread-self/ns/net"))
	if err != nil {
		return f, fmt.Errorf("the agent's network namespace: %w", err)
	}
	pids, err := members()
	if err != nil {
		return f, fmt.Errorf("processes of pod UID %s: %w", uid, err)
	}
	for _, pid := range pids {
		ns, n := p.netns(pid, members)
		switch {
		case ns == nil:
		case n == own: // the node's: the agent is on the host's network
			ns.Close()
		default:
			f.Netns, f.Inode = ns, n
			return f, nil
		}
	}
	return f, fmt.Errorf("pod UID %s: %w", uid, errNoProcess)
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

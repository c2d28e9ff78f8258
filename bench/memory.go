package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memory is what the processes between the pods have resident, each by the name that
// its processor time has.
func (s Site) memory() (map[string]uint64, error) {
	var all map[string]uint64
	take := func(name string, cgroup *os.File) error {
		each, err := residentIn(cgroup)
		if err != nil {
			return err
		}
		if all == nil {
			all = map[string]uint64{}
		}
		for _, b := range each {
			all[name] += b
		}
		return nil
	}
	if s.Proxies != nil {
		names, dirs, err := s.Proxies.Cgroups()
		if err != nil {
			return nil, err
		}
		for i, name := range names {
			if err := take(name, dirs[i]); err != nil {
				return nil, err
			}
		}
	}
	if s.Proxy != nil {
		if h, ok := s.Proxy.Handle(); ok {
			return all, take(waypointName, h.Cgroup)
		}
	}
	return all, nil
}

// residentIn is the resident memory of the processes in a cgroup and below it, by the
// name of their program: a pod of a cluster has a directory for each of its containers.
func residentIn(cgroup *os.File) (map[string]uint64, error) {
	all := map[string]uint64{}
	top := fmt.Sprintf("/proc/self/fd/%d", cgroup.Fd())
	err := fs.WalkDir(os.DirFS(top), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != ".":
			return nil // it has just been removed
		case err != nil || d.Name() != "cgroup.procs":
			return err
		}
		return addResident(all, filepath.Join(top, path))
	})
	if err != nil {
		return nil, fmt.Errorf("read memory in cgroup %s: %w", cgroup.Name(), err)
	}
	return all, nil
}

// addResident adds the processes that a file lists.
func addResident(all map[string]uint64, procs string) error {
	pids, err := os.ReadFile(procs)
	if err != nil && !gone(err) {
		return err
	}
	for _, pid := range strings.Fields(string(pids)) {
		program, bytes, err := resident("/proc/" + pid)
		if gone(err) {
			continue // it has just ended
		}
		if err != nil {
			return fmt.Errorf("process %s: %w", pid, err)
		}
		all[program] += bytes
	}
	return nil
}

// gone says that a process, or a cgroup, has just ended.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}

// resident reads a process's program and its VmRSS (proc_pid_status(5)).
func resident(dir string) (program string, bytes uint64, err error) {
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return "", 0, err
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return "", 0, err
	}
	kb, _, found := strings.Cut(field(string(status), "VmRSS"), " ")
	if !found {
		return "", 0, unix.ESRCH // it is ending: its memory is gone
	}
	n, err := strconv.ParseUint(kb, 10, 64)
	return filepath.Base(exe), n << 10, err
}

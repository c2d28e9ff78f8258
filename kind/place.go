package kind

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/scenario"
)

// place is where a pod is on this machine. Its descriptors are the world's.
type place struct {
	netns  *os.File
	cgroup *os.File // the pod's own directory
	leaf   *os.File // the directory of its container, where processes are born
	node   *os.File // network namespace of its node
	links  []scenario.LinkEnd
}

func (p *place) close() error {
	var errs []error
	for _, f := range []*os.File{p.netns, p.cgroup, p.leaf, p.node} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// errElsewhere says that a pod's node is not on this machine.
var errElsewhere = errors.New("the cluster's nodes do not run on this machine: nobody can watch their pods from here")

// findPlace looks for a pod by its UID in the machine's cgroups.
func findPlace(uid string) (_ *place, err error) {
	mount, err := kernel.Cgroup2()
	if err != nil {
		return nil, err
	}
	dir, err := podDirectory(mount, uid)
	if err != nil {
		return nil, err
	}
	p := new(place)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("pod of UID %s: %w", uid, err), p.close())
		}
	}()
	if p.cgroup, err = os.Open(dir); err != nil {
		return nil, err
	}
	leaf, pid, err := process(dir)
	if err != nil {
		return nil, err
	}
	if p.leaf, err = os.Open(leaf); err != nil {
		return nil, err
	}
	if p.netns, err = os.Open(filepath.Join("/proc", pid, "ns/net")); err != nil {
		return nil, err
	}
	if p.node, err = nodeNetns(dir); err != nil {
		return nil, err
	}
	p.links, err = linksOf(p.netns, p.node)
	return p, err
}

// podDirectory finds kubelet's directory of a pod, of either cgroup driver.
func podDirectory(mount, uid string) (string, error) {
	found := ""
	err := filepath.WalkDir(mount, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fs.SkipDir
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		name := strings.TrimSuffix(strings.ReplaceAll(d.Name(), "_", "-"), ".slice")
		if strings.HasSuffix(name, "pod"+uid) {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = errElsewhere
	}
	if err != nil {
		return "", fmt.Errorf("look for the cgroup of a pod: %w", err)
	}
	return found, nil
}

// process is a process at or below a directory that is in a network namespace of its
// own, and the directory that it is in. A pod's first container may be its sandbox:
// the newest is as good.
func process(dir string) (leaf, pid string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if all := strings.Fields(string(text)); len(all) > 0 {
			leaf, pid = filepath.Dir(path), all[0]
		}
		return nil
	})
	if err == nil && pid == "" {
		err = errors.New("no process runs in it")
	}
	return leaf, pid, err
}

// nodeNetns opens the network namespace of the node that a pod's directory is of:
// that of the first process beside kubelet's pods.
func nodeNetns(dir string) (*os.File, error) {
	for up := filepath.Dir(dir); up != "/"; up = filepath.Dir(up) {
		if !strings.Contains(up, "kubepods") && !strings.HasSuffix(up, "kubelet.slice") && !strings.HasSuffix(up, "/kubelet") {
			text, err := os.ReadFile(filepath.Join(up, "init.scope/cgroup.procs"))
			if err != nil {
				return nil, fmt.Errorf("first process of the node: %w", err)
			}
			all := strings.Fields(string(text))
			if len(all) == 0 {
				return nil, errors.New("the node has no first process")
			}
			return os.Open(filepath.Join("/proc", all[0], "ns/net"))
		}
	}
	return nil, errElsewhere
}

// linksOf are the two ends of a pod's eth0.
func linksOf(pod, node *os.File) ([]scenario.LinkEnd, error) {
	var own, other int
	err := kernel.InNetns(pod, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("the pod's eth0: %w", err)
		}
		own, other = link.Attrs().Index, link.Attrs().ParentIndex
		return nil
	})
	if err != nil {
		return nil, err
	}
	if other == 0 {
		return nil, errors.New("the pod's eth0 is no end of a pair")
	}
	return []scenario.LinkEnd{{Netns: pod, Ifindex: own, InPod: true}, {Netns: node, Ifindex: other}}, nil
}

// netnsPath is where a namespace is opened again.
func netnsPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func podDirectoryOf(uid string) (string, error) {
	mount, err := kernel.Cgroup2()
	if err != nil {
		return "", err
	}
	return podDirectory(mount, uid)
}

// killContainers ends all processes of a pod's containers by SIGKILL. Its sandbox, which
// has its addresses, stays.
func killContainers(o *corev1.Pod) error {
	dir, err := podDirectoryOf(string(o.UID))
	if err != nil {
		return fmt.Errorf("pod %s: %w", o.Name, err)
	}
	var pids []int
	for _, s := range o.Status.ContainerStatuses {
		_, id, _ := strings.Cut(s.ContainerID, "://")
		of, err := processesOf(dir, id)
		if err != nil {
			return fmt.Errorf("container %s of pod %s: %w", s.Name, o.Name, err)
		}
		pids = append(pids, of...)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d of pod %s: %w", pid, o.Name, err)
		}
	}
	return nil
}

// processesOf are those of one container of a pod's directory.
func processesOf(dir, container string) ([]int, error) {
	var all []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.Name() != "cgroup.procs" || !strings.Contains(path, container) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return err
			}
			if pid < 2 { // 0 is how the kernel names one of another PID namespace, and to a signal whoever sends it
				return fmt.Errorf("%s: process %d is none that can be told from here", path, pid)
			}
			all = append(all, pid)
		}
		return nil
	})
	if err == nil && (container == "" || len(all) == 0) {
		err = errors.New("no process of it runs")
	}
	return all, err
}

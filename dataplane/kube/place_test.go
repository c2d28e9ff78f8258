package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
)

const (
	uidA = "3f1a6f0e-0b1c-4b7e-9d8e-1a2b3c4d5e6f"
	uidB = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
)

func TestDirectory(t *testing.T) {
	under := func(uid string) string { return strings.ReplaceAll(uid, "-", "_") }
	for name, dir := range map[string]string{
		"systemd":                 "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under(uidA) + ".slice",
		"systemd, guaranteed":     "kubepods.slice/kubepods-pod" + under(uidA) + ".slice",
		"systemd, in a container": "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + under(uidA) + ".slice",
		"cgroupfs":                "kubepods/besteffort/pod" + uidA,
		"cgroupfs, guaranteed":    "kubepods/pod" + uidA,
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			want := filepath.Join(root, dir)
			must(t, os.MkdirAll(filepath.Join(want, "cri-containerd-0123.scope"), 0o755))
			must(t, os.MkdirAll(filepath.Join(root, "kubepods/burstable/pod"+uidB, "x"), 0o755))
			must(t, os.MkdirAll(filepath.Join(root, "system.slice/pod.slice"), 0o755))
			p := Places{Cgroup: root}
			if got, err := p.Directory(uidA); err != nil || got != want {
				t.Errorf("got %s, %v", got, err)
			}
			for _, none := range []string{"", "00000000-0000-0000-0000-000000000000", uidA[:30]} {
				if got, err := p.Directory(none); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("UID %q: %s, %v", none, got, err)
				}
			}
		})
	}
}

// scratch is a node's cgroup, with pods as kubelet makes them.
type scratch struct {
	t    *testing.T
	root string
}

var scratches atomic.Int64

func newScratch(t *testing.T) *scratch {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount)
	mount, err := kernel.Cgroup2()
	must(t, err)
	s := &scratch{t, filepath.Join(mount, fmt.Sprintf("duomesh-kube-test-%d-%d", os.Getpid(), scratches.Add(1)))}
	must(t, os.Mkdir(s.root, 0o755))
	t.Cleanup(s.remove)
	return s
}

func (s *scratch) remove() {
	eventually(s.t, "the cgroups can be removed", func() bool {
		var dirs []string
		err := filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			err = errors.Join(err, os.Remove(dirs[i]))
		}
		return err == nil
	})
}

func (s *scratch) places() Places { return Places{Cgroup: s.root, Proc: "/proc"} }

// process is one of a pod's container: in a leaf of the pod's cgroup.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	netns *os.File
	dir   string // the pod's cgroup
}

func (s *scratch) directory(uid string) string {
	return filepath.Join(s.root, "kubepods.slice/kubepods-pod"+strings.ReplaceAll(uid, "-", "_")+".slice")
}

// pod starts a pod's process in a network namespace; nil is the node's own.
func (s *scratch) pod(uid string, netns *os.File) *process {
	s.t.Helper()
	p := &process{t: s.t, netns: netns, dir: s.directory(uid)}
	leaf := filepath.Join(p.dir, "cri-containerd-app.scope")
	must(s.t, os.MkdirAll(leaf, 0o755))
	cgroup, err := os.Open(leaf)
	must(s.t, err)
	defer cgroup.Close()
	p.cmd = exec.Command("sleep", "600")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if netns == nil {
		must(s.t, p.cmd.Start())
	} else {
		must(s.t, kernel.InNetns(netns, p.cmd.Start))
	}
	s.t.Cleanup(p.end)
	return p
}

// end ends the process; it may be repeated.
func (p *process) end() {
	if p.cmd == nil {
		return
	}
	must(p.t, p.cmd.Process.Kill())
	_ = p.cmd.Wait() // "signal: killed"
	p.cmd = nil
}

func newNetns(t *testing.T) *os.File {
	t.Helper()
	kernel.Require(t, kernel.Root)
	ns, err := kernel.NewNetns()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestFind(t *testing.T) {
	s := newScratch(t)
	ns := newNetns(t)
	want, err := inode(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	must(t, err)
	p := s.pod(uidA, ns)
	found, err := s.places().Find(Want{UID: uidA})
	must(t, err)
	found.Netns.Close()
	if found.Inode != want || found.Cgroup != p.dir {
		t.Errorf("found %+v, want inode %d in %s", found, want, p.dir)
	}
	s.pod(uidB, nil)
	if found, err := s.places().Find(Want{UID: uidB}); !errors.Is(err, errNoProcess) {
		t.Errorf("a pod in the node's own namespace: %+v, %v", found, err)
	}
	p.end()
	if found, err := s.places().Find(Want{UID: uidA}); !errors.Is(err, errNoProcess) {
		t.Errorf("a pod whose process has ended: %+v, %v", found, err)
	}
}

// TestFindByProc: the pod's cgroups are in another hierarchy; what /proc says of
// its processes is all there is.
func TestFindByProc(t *testing.T) {
	s := newScratch(t)
	ns := newNetns(t)
	p := s.pod(uidA, ns)
	elsewhere := Places{Cgroup: t.TempDir(), Proc: "/proc"}
	found, err := elsewhere.Find(Want{UID: uidA})
	must(t, err)
	found.Netns.Close()
	if found.Cgroup != elsewhere.Cgroup {
		t.Errorf("found %+v", found)
	}
	p.end()
	if _, err := elsewhere.Find(Want{UID: uidA}); !errors.Is(err, errNoProcess) {
		t.Errorf("the control: %v", err)
	}
}

// eventually fails when a condition does not become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

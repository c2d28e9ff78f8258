package kube

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
)

// container starts a process of a pod in a container of this name.
func (s *scratch) container(uid, name string, netns *os.File, flags uintptr) *process {
	s.t.Helper()
	p := &process{t: s.t, netns: netns, dir: s.directory(uid)}
	leaf := filepath.Join(p.dir, "cri-containerd-"+name+".scope")
	must(s.t, os.MkdirAll(leaf, 0o755))
	cgroup, err := os.Open(leaf)
	must(s.t, err)
	defer cgroup.Close()
	p.cmd = exec.Command("sleep", "600")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER != 0 {
		root := []syscall.SysProcIDMap{{Size: 1}}
		p.cmd.SysProcAttr.UidMappings, p.cmd.SysProcAttr.GidMappings = root, root
	}
	must(s.t, kernel.InNetns(netns, p.cmd.Start))
	s.t.Cleanup(p.end)
	return p
}

// unshared is a process in a network namespace that it has made itself, as
// `unshare --user --net` does without any privilege.
const unshared = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET

func inodeOfFile(t *testing.T, ns *os.File) uint64 {
	t.Helper()
	n, err := inode(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()))
	must(t, err)
	return n
}

// found is the inode of what Find says, 0 when it finds nothing.
func (s *scratch) found(w Want) uint64 {
	s.t.Helper()
	found, err := s.places().Find(w)
	if errors.Is(err, errNoProcess) {
		return 0
	}
	must(s.t, err)
	must(s.t, found.Netns.Close())
	return found.Inode
}

// TestFindThePodsNamespace: processes of a pod are in namespaces that they have made, and
// the directory of their container comes first.
func TestFindThePodsNamespace(t *testing.T) {
	s := newScratch(t)
	sandbox, made := newNetns(t), newNetns(t)
	p := s.pod(uidA, sandbox)
	s.container(uidA, "aaa", made, 0) // with privilege, as Docker in a pod does
	inner := s.container(uidA, "aab", sandbox, unshared)
	want := inodeOfFile(t, sandbox)
	if got := s.found(Want{UID: uidA}); got != want {
		t.Errorf("found %d, the pod's is %d", got, want)
	}
	if got := s.found(Want{UID: uidA, Netns: inodeOfFile(t, made)}); got != inodeOfFile(t, made) {
		t.Errorf("found %d, the agent has %d and a process of the pod is in it", got, inodeOfFile(t, made))
	}
	if got := s.found(Want{UID: uidA, Netns: 7}); got != want {
		t.Errorf("found %d, nobody is in what the agent has, and the oldest is in %d", got, want)
	}

	// A pod of which nothing is left but what it has made without privilege.
	of, err := inode(fmt.Sprintf("/proc/%d/ns/net", inner.cmd.Process.Pid))
	must(t, err)
	s.container(uidB, "app", sandbox, unshared)
	if got := s.found(Want{UID: uidB}); got != 0 {
		t.Errorf("found %d, which a process of the pod has made for itself", got)
	}
	// Where the pod has a user namespace of its own that is the pod's.
	if got := s.found(Want{UID: uidB, Users: true}); got == 0 || got == of {
		t.Errorf("found %d in a pod with a user namespace of its own", got)
	}
	p.end()
}

// TestUnsharingDoesNotLeave: a process of an enrolled pod makes a network namespace of its
// own, the agent and its controller start again and know nothing but what was kept: the pod
// stays what it was.
func TestUnsharingDoesNotLeave(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	r := c.start(c.server.Config)
	pod := c.pod("shop", "web-0", nil)
	p := c.live(pod)
	want := inodeOfFile(t, p.netns)
	c.eventually("enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	c.node.container(string(pod.UID), "aaa", newNetns(t), 0)
	c.node.container(string(pod.UID), "aab", p.netns, unshared)
	c.labelPod("web-0", `"Kmesh"`)
	c.eventually("it is looked at", func() bool {
		o, there, err := r.pods.GetStore().GetByKey("shop/web-0")
		return err == nil && there && mode(o) == "Kmesh"
	})
	next := c.pod("shop", "web-1", nil) // the queue is first in, first out
	c.live(next)
	c.eventually("the next is enrolled", func() bool { return c.annotation(next) == RedirectionEnabled })
	if got := inodeOf(c); got != want {
		t.Errorf("enrolled netns was %d and is %d now", want, got)
	}
	r.stop()
	c.start(c.server.Config)
	third := c.pod("shop", "web-2", nil)
	c.live(third)
	c.eventually("the third is enrolled", func() bool { return c.annotation(third) == RedirectionEnabled })
	if got := inodeOf(c); got != want {
		t.Errorf("after a restart: enrolled netns was %d and is %d now", want, got)
	}
	c.labelPod("web-0", `"none"`)
	c.eventually("it leaves when it is told to", func() bool { return c.annotation(pod) == "" && !strings.Contains(c.has(), "web-0") })
}

// TestLivingNamespaceIsNotReplaced: whoever comes to the agent with another namespace of a
// pod that runs in the one that it has is refused; when nobody is in that, it is taken.
func TestLivingNamespaceIsNotReplaced(t *testing.T) {
	c := newCluster(t)
	c.namespace("duomesh-system", "")
	c.namespace("shop", "Kmesh")
	c.start(c.server.Config)
	pod := c.pod("shop", "web-0", nil)
	p := c.live(pod)
	c.eventually("enrolled", func() bool { return c.annotation(pod) == RedirectionEnabled })
	want := inodeOf(c)
	other := newNetns(t)
	again := c.node.container(string(pod.UID), "zzz", other, 0)
	cgroup, err := os.Open(p.dir)
	must(t, err)
	defer cgroup.Close()
	take := func() error {
		return api.Take(t.Context(), c.socket, api.Found{Pod: "shop/web-0", UID: string(pod.UID), Netns: other, Cgroup: cgroup})
	}
	if err := take(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in the network namespace %d that it was enrolled with", want)) {
		t.Errorf("another namespace of a pod that runs: %v", err)
	}
	if got := inodeOf(c); got != want {
		t.Errorf("enrolled netns was %d and is %d now", want, got)
	}
	p.end() // the sandbox is made anew, and no plugin said so
	must(t, take())
	if got := inodeOf(c); got != inodeOfFile(t, other) {
		t.Errorf("enrolled netns is %d", got)
	}
	again.end()
}

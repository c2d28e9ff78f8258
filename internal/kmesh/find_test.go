package kmesh

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	must(tb, os.MkdirAll(filepath.Dir(path), 0o755))
	must(tb, os.WriteFile(path, []byte(text), 0o600))
}

// node is a scratch one, with a BPF file system of its own.
func node(t *testing.T) Node {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.BPF, kernel.Cgroup2Mount)
	dir := t.TempDir()
	n := Node{
		Proc: filepath.Join(dir, "proc"), BPFFS: filepath.Join(dir, "bpf"),
		NetDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), State: filepath.Join(dir, "mnt"),
	}
	must(t, os.Mkdir(n.BPFFS, 0o755))
	must(t, unix.Mount("none", n.BPFFS, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(n.BPFFS, 0)) })
	write(t, filepath.Join(n.Proc, "self/mountinfo"), "22 1 0:20 / /proc rw - proc proc rw\n")
	write(t, filepath.Join(n.Proc, "1/comm"), "systemd\n")
	write(t, filepath.Join(n.NetDir, "10-flannel.conflist"), `{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}`)
	return n
}

// leftovers is what a killed Kmesh leaves, of the forms that its documentation names. The
// program does nothing, in a cgroup that has no process.
func leftovers(t *testing.T, n Node) (programID ebpf.ProgramID) {
	t.Helper()
	write(t, filepath.Join(n.Proc, "4711/comm"), "kmesh-daemon\n")
	write(t, filepath.Join(n.Proc, "self/mountinfo"), "30 1 0:27 / /mnt/kmesh_cgroup2 rw - cgroup2 none rw\n")
	write(t, filepath.Join(n.NetDir, "10-flannel.conflist"), `{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "kmesh-cni", "mode": "dual-engine"}]}`)
	write(t, filepath.Join(n.NetDir, "kmesh-cni-kubeconfig"), "token")
	write(t, filepath.Join(n.BinDir, "kmesh-cni"), "")
	write(t, filepath.Join(n.State, "workload_hash_name.yaml"), "")
	for _, dir := range []string{"map", "sockconn"} {
		must(t, os.MkdirAll(filepath.Join(n.BPFFS, "bpf_kmesh_workload", dir), 0o755))
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "km_manage", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer m.Close()
	must(t, m.Pin(filepath.Join(n.BPFFS, "bpf_kmesh_workload/map/km_manage")))
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "cgroup_connect4", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer p.Close()
	g, err := kernel.NewGround()
	must(t, err)
	t.Cleanup(func() { must(t, g.Close()) })
	cgroup, err := g.Cgroup()
	must(t, err)
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect})
	must(t, err)
	defer l.Close()
	must(t, l.Pin(filepath.Join(n.BPFFS, "bpf_kmesh_workload/sockconn/cgroup_connect4_prog")))
	info, err := p.Info()
	must(t, err)
	id, _ := info.ID()
	return id
}

// tree is all there is, to see that nothing was touched.
func tree(t *testing.T, n Node) string {
	t.Helper()
	var all []string
	must(t, filepath.WalkDir(filepath.Dir(n.BPFFS), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		all = append(all, fmt.Sprint(path, info.Mode(), info.Size()))
		return err
	}))
	return strings.Join(all, "\n")
}

func TestFindsWhatKmeshLeft(t *testing.T) {
	n := node(t)
	program := leftovers(t, n)
	before := tree(t, n)
	found, err := Find(n)
	must(t, err)
	at := 0
	for _, want := range []struct {
		step        int
		what, where string
	}{
		{stepDaemon, "kmesh-daemon", "pid 4711"},
		{stepCNI, "CNI entry kmesh-cni", "10-flannel.conflist"},
		{stepLinks, "link of cgroup_connect4", "sockconn/cgroup_connect4_prog"},
		{stepPrograms, "program cgroup_connect4", "id " + id(uint32(program)) + ","},
		{stepMaps, "1 links, 1 maps", "bpf_kmesh_workload"},
		{stepMount, "cgroup mount", "/mnt/kmesh_cgroup2"},
		{stepFiles, "file", "bin/kmesh-cni"},
		{stepFiles, "file", "kmesh-cni-kubeconfig"},
		{stepFiles, "file", "workload_hash_name.yaml"},
	} {
		i := slices.IndexFunc(found, func(f Found) bool {
			return f.Step == want.step && strings.Contains(f.What, want.what) && strings.Contains(f.Where, want.where)
		})
		if i < 0 {
			t.Errorf("%s at %s was not found", want.what, want.where)
			continue
		}
		if found[i].Remove == "" || found[i].Effect == "" {
			t.Errorf("%+v says nothing", found[i])
		}
		if want.step != stepFiles && i < at {
			t.Errorf("%s comes before what must go first", want.what)
		}
		at = max(at, i)
	}
	if after := tree(t, n); after != before {
		t.Errorf("it has changed something:\n%s\nwas\n%s", after, before)
	}
}

// The control: nothing of Kmesh's is there, whatever else is.
func TestFindsNothingElsewhere(t *testing.T) {
	n := node(t)
	found, err := Find(n)
	must(t, err)
	for _, f := range found {
		if f.Step != stepPrograms { // this machine's own, if it has any
			t.Errorf("found %+v", f)
		}
	}
	write(t, filepath.Join(n.NetDir, "20-broken.conflist"), "{")
	if _, err := Find(n); err == nil || !strings.Contains(err.Error(), "20-broken.conflist") {
		t.Errorf("a configuration that cannot be read: %v", err)
	}
}

// The same node is listed in the same order each time, so that two lists can be compared.
func TestOrderIsTheSameEachTime(t *testing.T) {
	dir := t.TempDir()
	n := Node{BinDir: filepath.Join(dir, "bin"), NetDir: filepath.Join(dir, "net.d")}
	write(t, filepath.Join(n.BinDir, "kmesh-cni"), "")
	write(t, filepath.Join(n.NetDir, "kmesh-cni-kubeconfig"), "token")
	for range 100 {
		found, err := plugins(n)
		must(t, err)
		if len(found) != 2 || found[0].Where != filepath.Join(n.BinDir, "kmesh-cni") {
			t.Fatalf("%+v", found)
		}
	}
}

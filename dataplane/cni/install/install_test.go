package install

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/cni"
)

// node is a node's directories.
type node struct {
	t        *testing.T
	net, bin string
	program  string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, net: t.TempDir(), bin: t.TempDir(), program: filepath.Join(t.TempDir(), "plugin")}
	n.must(os.WriteFile(n.program, []byte("the plugin"), 0o755))
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) installer() *Installer {
	n.t.Helper()
	i, err := New(Config{
		NetDir: n.net, BinDir: n.bin, Program: n.program,
		Plugin: cni.Conf{Socket: "/run/x.sock", PassNamespaces: []string{"kube-system"}},
	})
	n.must(err)
	return i
}

func (n *node) write(name, content string) {
	n.t.Helper()
	n.must(os.WriteFile(filepath.Join(n.net, name), []byte(content), 0o644))
}

// files are the node's, by name.
func (n *node) files() map[string]string {
	n.t.Helper()
	all := map[string]string{}
	for _, dir := range []string{n.net, n.bin} {
		entries, err := os.ReadDir(dir)
		n.must(err)
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			n.must(err)
			info, err := e.Info()
			n.must(err)
			all[e.Name()] = fmt.Sprintf("%v %s", info.Mode(), data)
		}
	}
	return all
}

// chain is what a runtime loads: the types of the first configuration.
func (n *node) chain() string {
	n.t.Helper()
	files, err := libcni.ConfFiles(n.net, extensions)
	n.must(err)
	if len(files) == 0 {
		return ""
	}
	list, err := libcni.ConfListFromFile(files[0])
	if err != nil {
		return "error: " + err.Error()
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return strings.Join(types, " ")
}

// flannel is written as people write it: its white space must survive.
const flannel = `{
  "cniVersion": "1.0.0",
  "name": "cbr0",
  "plugins": [
    {"type": "flannel", "delegate": {"isDefaultGateway": true} },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true}
    }
  ]  ,
  "disableCheck" : false
}
`

const single = `{ "cniVersion": "0.4.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local"} }`

func TestUninstallLeavesTheNodeAsFound(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a list":             {"10-flannel.conflist": flannel},
		"a list on one line": {"10.conflist": `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"ptp"}]}`},
		"one plugin":         {"10-bridge.conf": single},
		"one plugin as json": {"10-bridge.json": single},
		"both, the list first": {
			"05-flannel.conflist": flannel, "10-bridge.conf": single, "README": "by hand", "99-loopback.conf": single,
		},
		"broken, then a list": {"05-broken.conflist": `{"name": "x", "plugins": [`, "10-flannel.conflist": flannel},
		"nothing":             {},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			for file, content := range files {
				n.write(file, content)
			}
			before := n.files()
			i := n.installer()
			installed, err := i.Ensure()
			n.must(err)
			if installed != (len(files) > 0) {
				t.Errorf("installed is %v", installed)
			}
			if installed && cmp.Equal(n.files(), before) {
				t.Error("nothing was installed")
			}
			once := n.files()
			_, err = i.Ensure()
			n.must(err)
			if diff := cmp.Diff(once, n.files()); diff != "" {
				t.Errorf("the second time changed something:\n%s", diff)
			}
			n.must(n.installer().Uninstall()) // by another process
			if diff := cmp.Diff(before, n.files()); diff != "" {
				t.Errorf("not as it was found:\n%s", diff)
			}
			n.must(n.installer().Uninstall())
		})
	}
}

func TestChain(t *testing.T) {
	n := newNode(t)
	i := n.installer()
	ensure := func(want string) {
		t.Helper()
		_, err := i.Ensure()
		n.must(err)
		if got := n.chain(); got != want {
			t.Fatalf("the chain is %q, want %q", got, want)
		}
	}
	ensure("")
	n.write("10-flannel.conflist", flannel)
	ensure("flannel portmap duomesh-cni")
	n.write("10-flannel.conflist", flannel) // rewritten by its owner
	ensure("flannel portmap duomesh-cni")
	// Another comes first: it is the chain now, the other is as it was.
	n.write("05-bridge.conf", single)
	ensure("bridge duomesh-cni")
	if data, _ := os.ReadFile(filepath.Join(n.net, "10-flannel.conflist")); string(data) != flannel {
		t.Errorf("a chain that is not used any more is\n%s", data)
	}
	// Its owner writes it anew: the old one that was set aside is worth nothing.
	newer := strings.Replace(single, "host-local", "dhcp", 1)
	n.write("05-bridge.conf", newer)
	ensure("bridge duomesh-cni")
	// Yet another comes first.
	n.write("00-new.conflist", flannel)
	ensure("flannel portmap duomesh-cni")
	if data, _ := os.ReadFile(filepath.Join(n.net, "05-bridge.conf")); string(data) != newer {
		t.Errorf("a configuration that is not used any more is\n%s", data)
	}
	n.must(os.Remove(filepath.Join(n.net, "00-new.conflist")))
	ensure("bridge duomesh-cni")
	n.must(i.Uninstall())
	if data, _ := os.ReadFile(filepath.Join(n.net, "05-bridge.conf")); string(data) != newer {
		t.Errorf("what was put back is\n%s", data)
	}
	n.must(os.Remove(filepath.Join(n.net, "05-bridge.conf")))

	// An entry that says something else, one that stands twice, one behind ours.
	old := `{"type":"duomesh-cni","socket":"/old"}`
	n.write("10-flannel.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[`+old+`,{"type":"ptp"},`+old+`,{"type":"tuning"}]}`)
	ensure("duomesh-cni ptp tuning")
	data, err := os.ReadFile(filepath.Join(n.net, "10-flannel.conflist"))
	n.must(err)
	if bytes.Contains(data, []byte("/old")) {
		t.Errorf("an old entry stays:\n%s", data)
	}
}

func TestProgram(t *testing.T) {
	n := newNode(t)
	i := n.installer()
	to := filepath.Join(n.bin, cni.Type)
	for _, content := range []string{"the plugin", "a newer one"} {
		n.must(os.WriteFile(n.program, []byte(content), 0o755))
		_, err := i.Ensure()
		n.must(err)
		data, err := os.ReadFile(to)
		n.must(err)
		if string(data) != content || !executable(to) {
			t.Errorf("the program is %q", data)
		}
	}
	n.must(os.Remove(n.program))
	if _, err := i.Ensure(); err == nil || !strings.Contains(err.Error(), "read the plugin") {
		t.Errorf("without a program: %v", err)
	}
	_, err := New(Config{Plugin: cni.Conf{AgentAbsent: "perhaps"}})
	if err == nil || !strings.Contains(err.Error(), `agentAbsent "perhaps"`) {
		t.Errorf("a policy that is none: %v", err)
	}
}

func TestReplaceLosesNobodysWork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("newer"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := replace(file, []byte("old"), []byte("ours")); !errors.Is(err, errChanged) {
		t.Errorf("a file that was written meanwhile: %v", err)
	}
	if data, _ := os.ReadFile(file); string(data) != "newer" {
		t.Errorf("it is %q", data)
	}
	if err := replace(file, []byte("newer"), []byte("ours")); err != nil {
		t.Error(err)
	}
	st, err := os.Stat(file)
	if data, _ := os.ReadFile(file); err != nil || string(data) != "ours" || st.Mode().Perm() != 0o640 {
		t.Errorf("it is %q, %v, %v", data, st.Mode(), err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := replace(file, []byte("ours"), []byte("again")); !errors.Is(err, errChanged) {
		t.Errorf("a file that was removed meanwhile: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

// TestConcurrentRewrites: owners replace the file as fast as they can, each with a
// content of its own. The last one's content survives, with the plugin in it, and
// nobody ever reads half a file.
func TestConcurrentRewrites(t *testing.T) {
	n := newNode(t)
	n.write("10.conflist", flannel)
	ctx, cancel := context.WithCancel(context.Background())
	i := n.installer()
	var wg sync.WaitGroup
	ended := make(chan error, 1)
	wg.Go(func() { ended <- i.Run(ctx, nil) })
	defer func() { cancel(); wg.Wait(); n.must(<-ended) }()

	const rounds = 300
	for round := range rounds {
		list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"ptp","round":%d}]}`, round)
		temp := filepath.Join(n.net, "owner.tmp")
		n.must(os.WriteFile(temp, []byte(list), 0o644))
		n.must(os.Rename(temp, filepath.Join(n.net, "10.conflist")))
		if got := n.chain(); got != "ptp" && got != "ptp duomesh-cni" {
			t.Fatalf("a reader saw %q", got)
		}
	}
	n.eventually("the plugin is in the last one", func() bool {
		data, err := os.ReadFile(filepath.Join(n.net, "10.conflist"))
		n.must(err)
		return bytes.Contains(data, []byte(cni.Type)) && bytes.Contains(data, fmt.Appendf(nil, `"round":%d`, rounds-1))
	})
}

func TestRunSurvives(t *testing.T) {
	n := newNode(t)
	n.must(os.Remove(n.net)) // the network comes up later
	ctx, cancel := context.WithCancel(context.Background())
	i := n.installer()
	looks := make(chan error, 1000)
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx, func(_ bool, err error) { looks <- err }) }()
	if err := <-looks; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the directory: %v", err)
	}
	n.must(os.MkdirAll(n.net, 0o755))
	n.write("10-flannel.conflist", flannel)
	const whole = "flannel portmap duomesh-cni"
	n.eventually("installed into a directory that came later", func() bool { return n.chain() == whole })

	n.write("10-flannel.conflist", flannel)
	n.eventually("installed after a rewrite", func() bool { return n.chain() == whole })
	n.must(os.Remove(filepath.Join(n.bin, cni.Type)))
	n.eventually("the program is back", func() bool { return executable(filepath.Join(n.bin, cni.Type)) })
	n.write("10-flannel.conflist", flannel[:40])
	n.write("10-flannel.conflist", flannel)
	n.eventually("installed after half a file", func() bool { return n.chain() == whole })
	cancel()
	n.must(<-ended)
	if n.chain() != whole {
		t.Error("it does not stay installed when the agent ends")
	}
}

func (n *node) eventually(what string, is func() bool) {
	n.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			n.t.Fatalf("never: %s; files are %v", what, n.files())
		}
	}
}

// FuzzEdit: whatever list with puts an entry into, without gives back byte for byte.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(flannel))
	f.Add([]byte(`{"plugins":[{"type":"a"}]}`))
	f.Add([]byte(`{"plugins":[{"type":"a"},{}], "x":[1,{"plugins":[]}]}`))
	f.Add([]byte(`{"plugins":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := plugins(data)
		if err != nil {
			return
		}
		for _, e := range all {
			if e.kind == "ours" {
				return
			}
		}
		in, err := with(data, []byte(`{"type":"ours"}`), "ours")
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(in) {
			t.Fatalf("%q is no JSON any more: %q", data, in)
		}
		out, err := without(in, "ours")
		if err != nil || !bytes.Equal(out, data) {
			t.Fatalf("%q became %q and then %q, %v", data, in, out, err)
		}
	})
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/kmesh"
)

// leftBehind is a node on which Kmesh was, without its programs.
func leftBehind(t *testing.T) kmesh.Node {
	t.Helper()
	kernel.Require(t, kernel.Root, kernel.BPF)
	dir := t.TempDir()
	n := kmesh.Node{
		Proc: filepath.Join(dir, "proc"), BPFFS: filepath.Join(dir, "bpf"),
		NetDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), State: filepath.Join(dir, "mnt"),
	}
	for path, text := range map[string]string{
		filepath.Join(n.Proc, "4711/comm"):                 "kmesh-daemon\n",
		filepath.Join(n.NetDir, "10-x.conflist"):           `{"plugins": [{"type": "bridge"}, {"type": "kmesh-cni"}]}`,
		filepath.Join(n.BPFFS, "bpf_kmesh_workload/map/m"): "",
		filepath.Join(n.State, "workload_hash_name.yaml"):  "",
		filepath.Join(n.NetDir, "kmesh-cni-kubeconfig"):    "token",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestDoctorFindsKmesh(t *testing.T) {
	n := leftBehind(t)
	var text bytes.Buffer
	if err := findKmesh(n, "table", &text); err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, want := range []string{
		"process kmesh-daemon", "node affinity", "CNI entry kmesh-cni", "bpf_kmesh_workload", "workload_hash_name.yaml",
		"Nothing was touched", "docs/migrate-from-kmesh.md",
	} {
		i := strings.Index(text.String()[at:], want)
		if i < 0 {
			t.Fatalf("no %q, in its place, in\n%s", want, text.String())
		}
		at += i
	}
	// What cannot be read is an error, after what was found.
	if err := os.WriteFile(filepath.Join(n.NetDir, "20-broken.conflist"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := findKmesh(n, "json", &out)
	if err == nil || !strings.Contains(err.Error(), "20-broken.conflist") {
		t.Errorf("a configuration that cannot be read: %v", err)
	}
	var r kmeshReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Schema != kmeshSchema || r.Version != 1 || len(r.Found) != 5 || r.Found[0].Step != 1 || !strings.Contains(r.Problem, "20-broken.conflist") {
		t.Errorf("%+v", r)
	}
}

// The control: a node on which Kmesh never was.
func TestDoctorFindsNoKmesh(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF)
	dir := t.TempDir()
	n := kmesh.Node{Proc: dir, BPFFS: dir, NetDir: dir, BinDir: dir, State: dir}
	if all, err := kmesh.Find(n); err != nil || len(all) > 0 {
		t.Skipf("NOT RUN: this machine has programs like Kmesh's: %v, %v", all, err)
	}
	for output, want := range map[string]string{"table": "nothing of Kmesh is on this node\n", "json": `"found":[]`} {
		var out bytes.Buffer
		if err := findKmesh(n, output, &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, %v", output, out.String(), err)
		}
	}
}

// What cannot be read may be Kmesh's: nobody is told that there is nothing.
func TestDoctorGivesNoAllClearOfWhatItCannotRead(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.BPF)
	dir := t.TempDir()
	n := kmesh.Node{Proc: dir, BPFFS: dir, NetDir: dir, BinDir: dir, State: dir}
	if all, err := kmesh.Find(n); err != nil || len(all) > 0 {
		t.Skipf("NOT RUN: this machine has programs like Kmesh's: %v, %v", all, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-x.conflist"), []byte(`{"plugins": [{"type": "kmesh-cni"},]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := findKmesh(n, "table", &out)
	if err == nil || !strings.Contains(err.Error(), "10-x.conflist") {
		t.Errorf("a configuration that cannot be read: %v", err)
	}
	if got, want := out.String(), "nothing of Kmesh was found, but not everything could be looked at\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

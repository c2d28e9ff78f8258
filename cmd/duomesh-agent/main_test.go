package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/kernel"
)

// try runs the command with an environment of its own.
func try(ctx context.Context, env map[string]string, args ...string) (code int, said string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, func(key string) string { return env[key] }, &out, &errs)
	return code, out.String() + errs.String()
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		args []string
		want string
	}{
		"no source":               {nil, nil, "--source file:PATH or xds:ADDRESS is needed"},
		"two sources":             {map[string]string{"XDS_ADDRESS": "istiod:15012"}, []string{"--source", "file:x"}, "--source file:x and XDS_ADDRESS=istiod:15012: give one of them"},
		"xds without port":        {nil, []string{"--source", "xds:istiod"}, "--source xds:istiod: want xds:HOST:PORT"},
		"xds at no port":          {nil, []string{"--source", "xds:istiod:99999"}, `--source xds:istiod:99999: want xds:HOST:PORT: "99999" is no port from 1 to 65535`},
		"xds at a word":           {nil, []string{"--source", "xds:istiod:grpc"}, `"grpc" is no port`},
		"xds at port 0":           {nil, []string{"--source", "xds:istiod:0"}, `"0" is no port`},
		"xds without host":        {nil, []string{"--source", "xds::15012"}, `"" is no name and no address of a host`},
		"xds at two words":        {nil, []string{"--source", "xds:a b:1"}, `"a b" is no name`},
		"XDS_ADDRESS of nothing":  {map[string]string{"XDS_ADDRESS": ":"}, nil, "XDS_ADDRESS=:: want HOST:PORT of an istiod"},
		"XDS_ADDRESS, no port":    {map[string]string{"XDS_ADDRESS": "istiod"}, nil, "XDS_ADDRESS=istiod: want HOST:PORT of an istiod"},
		"a locality with a hole":  {nil, []string{"--source", "file:x", "--locality", "a//b"}, "--locality a//b: want REGION"},
		"a locality, no region":   {nil, []string{"--source", "file:x", "--locality", "/b"}, "--locality /b: want REGION"},
		"a multicast IP":          {map[string]string{"INSTANCE_IP": "224.0.0.1"}, []string{"--source", "xds:x:1"}, "INSTANCE_IP=224.0.0.1: want the IP address of the pod"},
		"a namespace with a dot":  {map[string]string{"POD_NAMESPACE": "a.b"}, []string{"--source", "file:x"}, "POD_NAMESPACE=a.b: want the name of a namespace"},
		"a node with two dots":    {map[string]string{"NODE_NAME": "a..b"}, []string{"--source", "file:x"}, "NODE_NAME=a..b: want the name of a Kubernetes node"},
		"a node that is none":     {nil, []string{"--source", "xds:x:1", "--node", "Bad_Name"}, "--node Bad_Name: want the name of a Kubernetes node"},
		"another source":          {nil, []string{"--source", "http://x"}, "want file:PATH or xds:ADDRESS"},
		"an argument":             {nil, []string{"x"}, `unknown argument "x"`},
		"an unknown flag":         {nil, []string{"--frob"}, "unknown flag: --frob"},
		"no room":                 {nil, []string{"--source", "file:x", "--max-slots", "0"}, "--max-slots 0: want at least 1"},
		"a size that is none":     {nil, []string{"--source", "file:x", "--max-slots", "abc"}, "--max-slots abc: want a whole number from 0 to 4294967295"},
		"a switch that is none":   {nil, []string{"--source", "file:x", "--force=2"}, "--force 2: want true or false"},
		"a locality":              {nil, []string{"--source", "file:x", "--locality", "a/b/c/d"}, "--locality a/b/c/d"},
		"a log level":             {nil, []string{"--source", "file:x", "--log-level", "loud"}, "--log-level loud"},
		"another mode":            {nil, []string{"--source", "file:x", "--mode=kernel-native"}, "dual-engine only"},
		"bypass":                  {nil, []string{"--source", "file:x", "--enable-bypass=true"}, "--enable-bypass: not in this agent"},
		"a flag of Kmesh":         {nil, []string{"--bpf-fs-path=/sys/fs/bpf"}, "use --bpffs"},
		"remove what":             {nil, []string{"--remove", "--bpffs", ""}, "says where the pins are"},
		"no such cgroup":          {nil, []string{"--source", "file:x", "--cgroup", "/no/such/dir"}, "--cgroup: open /no/such/dir"},
		"a hand-off that is none": {nil, []string{"--source", "xds:x:1", "--handoff", "hbone"}, "--handoff hbone: want original-dst, proxy-v2 or kmesh-tlv"},
		"another that is none":    {nil, []string{"--source", "file:x", "--handoff", "kmesh"}, "--handoff kmesh: want original-dst, proxy-v2 or kmesh-tlv"},
		"a policy mode":           {nil, []string{"--source", "xds:x:1", "--unenforced-policy", "drop"}, "--unenforced-policy drop: want warn or refuse"},
		"no resolv.conf":          {nil, []string{"--source", "xds:x:1", "--resolv-conf", "/no/such"}, "--resolv-conf: open /no/such"},
		"no IP":                   {map[string]string{"INSTANCE_IP": "10.0.0"}, []string{"--source", "xds:x:1"}, "INSTANCE_IP=10.0.0: want the IP address of the pod"},
		"no name of a pod":        {map[string]string{"POD_NAME": "a~b"}, []string{"--source", "xds:x:1"}, "POD_NAME=a~b: want the name of a pod"},
		"no name of a node":       {map[string]string{"NODE_NAME": "A B"}, []string{"--source", "file:x"}, "NODE_NAME=A B: want the name of a Kubernetes node"},
		"no namespace":            {map[string]string{"POD_NAMESPACE": "-"}, []string{"--source", "file:x"}, "POD_NAMESPACE=-: want the name of a namespace"},
		"no account":              {map[string]string{"SERVICE_ACCOUNT": "a/b"}, []string{"--source", "file:x"}, "SERVICE_ACCOUNT=a/b: want"},
		"no cluster":              {map[string]string{"CLUSTER_ID": " x"}, []string{"--source", "file:x"}, "CLUSTER_ID= x: want letters"},
		"no mesh":                 {map[string]string{"MESH_ID": "a b"}, []string{"--source", "file:x"}, "MESH_ID=a b: want letters"},
		"no network":              {map[string]string{"ISTIO_META_NETWORK": "${NETWORK}"}, []string{"--source", "file:x"}, "ISTIO_META_NETWORK=${NETWORK}: want letters"},
		"enable-ipsec":            {nil, []string{"--enable-ipsec"}, "--enable-ipsec is a flag of Kmesh"},
		"cgroup2-path":            {nil, []string{"--cgroup2-path", "/mnt"}, "use --cgroup"},
		"an empty XDS host":       {map[string]string{"XDS_ADDRESS": ""}, nil, "--source file:PATH or xds:ADDRESS is needed"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(name, "no such") || strings.HasPrefix(name, "remove") {
				kernel.Require(t, kernel.Root)
			}
			code, said := try(t.Context(), c.env, c.args...)
			if code != exitUsage || !strings.Contains(said, c.want) || strings.Count(said, "\n") != 1 {
				t.Errorf("exit code %d, said %q; want %d, one line with %q", code, said, exitUsage, c.want)
			}
		})
	}
}

// TestKmeshManifest runs with the flags and the environment that Kmesh's
// manifests set, but for the control plane, to its end by a signal.
func TestKmeshManifest(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	root, err := kernel.Cgroup2()
	must(t, err)
	cgroup, err := os.MkdirTemp(root, "duomesh-agent-cmd-")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(cgroup)) })
	bpffs, dir := t.TempDir(), t.TempDir()
	must(t, unix.Mount("none", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	intent, socket := filepath.Join(dir, "intent.yaml"), filepath.Join(dir, "enrol.sock")
	must(t, os.WriteFile(intent, []byte("version: 1\n"), 0o600))
	env := map[string]string{
		"NODE_NAME": "worker-1", "CLUSTER_ID": "Kubernetes", "POD_NAME": "p", "POD_NAMESPACE": "n",
		"INSTANCE_IP": "10.0.0.1", "SERVICE_ACCOUNT": "s", "MESH_ID": "m", "ISTIO_META_NETWORK": "net-1",
	}
	args := []string{
		"--mode=dual-engine", "--enable-bypass=false", "--enable-bpf-log=true",
		"--source", "file:" + intent, "--cgroup", cgroup, "--bpffs", bpffs, "--enrol-socket", socket,
		"--admin", "127.0.0.1:0", "--metrics", "",
	}
	ctx, cancel := context.WithCancel(t.Context())
	type end struct {
		code int
		said string
	}
	ended := make(chan end, 1)
	go func() {
		code, said := try(ctx, env, args...)
		ended <- end{code, said}
	}()
	awaitAgent(t, socket)
	if code, said := try(t.Context(), env, args...); code != exitFail || !strings.Contains(said, "node worker-1") || !strings.Contains(said, "another engine") {
		t.Errorf("a second agent: exit code %d, said %q", code, said)
	}
	cancel()
	e := <-ended
	if e.code != exitOK || !strings.Contains(e.said, "the agent takes enrolments") {
		t.Errorf("exit code %d, said %s", e.code, e.said)
	}
	pins := filepath.Join(bpffs, "duomesh")
	if _, err := os.Stat(pins); err != nil {
		t.Errorf("the dataplane ended with its agent: %v", err)
	}
	if code, said := try(t.Context(), env, "--remove", "--bpffs", bpffs, "--enrol-socket", socket); code != exitOK || said != "" {
		t.Errorf("--remove: exit code %d, said %q", code, said)
	}
	for _, path := range []string{pins, filepath.Join(dir, "enrolled.json"), socket} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func awaitAgent(t *testing.T, socket string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for {
		_, err := api.List(t.Context(), socket)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("the agent does not answer: %v", err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

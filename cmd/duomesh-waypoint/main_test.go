package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/l7"
)

// try runs the command with an environment that has nothing, and a context that has
// ended: nothing is started.
func try(t *testing.T, env map[string]string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var said bytes.Buffer
	var environ []string
	for k, v := range env {
		environ = append(environ, k+"="+v)
	}
	code := run(ctx, args, func(name string) string { return env[name] }, environ, &said, &said)
	return code, said.String()
}

// pod is the environment of istiod's waypoint template.
func pod() map[string]string {
	return map[string]string{
		"CA_ADDR": "istiod.istio-system.svc:15012", "POD_NAME": "waypoint-0", "POD_NAMESPACE": "demo", "INSTANCE_IP": "10.0.0.3",
		"SERVICE_ACCOUNT": "waypoint", "ISTIO_META_CLUSTER_ID": "Kubernetes", "ISTIO_META_NODE_NAME": "node-b",
		"ISTIO_META_MESH_ID": "cluster.local", "TRUST_DOMAIN": "cluster.local", "ISTIO_CPU_LIMIT": "2", "ENVOY_BIN": "/nowhere/envoy",
		"PROXY_CONFIG": `{"proxyMetadata":{"ISTIO_META_ENABLE_HBONE":"true"}}`,
	}
}

// istiodArgs are those with which istiod's template calls its image.
var istiodArgs = []string{
	"proxy", "waypoint", "--domain", "demo.svc.cluster.local", "--serviceCluster", "waypoint.demo", "--proxyLogLevel", "warning",
	"--proxyComponentLogLevel", "misc:error", "--log_output_level", "default:info", "--name", "demo/waypoint",
	"--outlierLogPath", "/dev/stdout",
}

func TestArgumentsOfIstiodsTemplateAreTaken(t *testing.T) {
	code, said := try(t, pod(), istiodArgs...)
	// All was understood: what is missing is the Envoy itself.
	if code != exitFail || !strings.Contains(said, "/nowhere/envoy is no program") {
		t.Errorf("exit %d: %s", code, said)
	}
	if !strings.Contains(said, "no effect") || !strings.Contains(said, "--outlierLogPath") {
		t.Errorf("what is ignored is not said: %s", said)
	}
}

func TestWhoAsksIstiod(t *testing.T) {
	env := pod()
	env["PROXY_CONFIG"] = `{"concurrency":3}`
	var environ []string
	for k, v := range env {
		environ = append(environ, k+"="+v)
	}
	f := flags{name: "demo/waypoint", node: "node-b", istio: istioFlags{domain: "demo.svc.example.org"}}
	interfaces := func() (all []net.Addr, err error) {
		for _, a := range []string{"127.0.0.1/8", "::1/128", "fe80::1/64", "10.0.0.3/24", "fd00:10::3/64"} {
			ip, of, err := net.ParseCIDR(a)
			if err != nil {
				return nil, err
			}
			all = append(all, &net.IPNet{IP: ip, Mask: of.Mask})
		}
		return all, nil
	}
	who, name, err := f.identity(surroundings{
		env: func(name string) string { return env[name] }, environ: environ, addresses: interfaces,
	})
	if err != nil {
		t.Fatal(err)
	}
	if who.ID() != "waypoint~10.0.0.3~waypoint-0.demo~demo.svc.example.org" || name != "demo/waypoint" {
		t.Errorf("%s is %s", name, who.ID())
	}
	m := who.Metadata
	labels := m["LABELS"].(map[string]any)
	if m["CLUSTER_ID"] != "Kubernetes" || m["MESH_ID"] != "cluster.local" || labels[gatewayLabel] != "waypoint" {
		t.Errorf("metadata %v", m)
	}
	if m["INSTANCE_IPS"] != "10.0.0.3,fd00:10::3" {
		t.Errorf("a pod of both families says that it has %v", m["INSTANCE_IPS"])
	}
	proxy := m["PROXY_CONFIG"].(map[string]any)
	if proxy["concurrency"] != float64(3) || proxy["proxyHeaders"].(map[string]any)["server"].(map[string]any)["disabled"] != true {
		t.Errorf("PROXY_CONFIG %v", proxy)
	}
	if _, err := who.Proto(); err != nil {
		t.Error(err)
	}
}

// What ProxyConfig says is carried out, or named.
func TestProxyConfig(t *testing.T) {
	of := func(given ...string) (l7.Config, string, error) {
		var said bytes.Buffer
		env := map[string]string{"PROXY_CONFIG": `{"concurrency":3,"terminationDrainDuration":"20s","drainDuration":"9s"}`}
		s := surroundings{
			env:   func(name string) string { return env[name] },
			given: func(name string) bool { return slices.Contains(given, name) },
		}
		c := l7.Config{Concurrency: 1, Drain: time.Second}
		err := flags{}.byProxyConfig(s, &c, slog.New(slog.NewTextHandler(&said, nil)))
		return c, said.String(), err
	}
	c, said, err := of()
	if err != nil || c.Concurrency != 3 || c.Drain != 20*time.Second {
		t.Errorf("%d workers, drain %s, %v", c.Concurrency, c.Drain, err)
	}
	if !strings.Contains(said, "drainDuration") || strings.Contains(said, "concurrency") {
		t.Errorf("said to have no effect: %s", said)
	}
	if c, _, err := of("concurrency", "drain"); err != nil || c.Concurrency != 1 || c.Drain != time.Second {
		t.Errorf("beside flags: %d workers, drain %s, %v", c.Concurrency, c.Drain, err)
	}
}

func TestBadInputIsOneClearError(t *testing.T) {
	for want, c := range map[string]struct {
		env  map[string]string
		args []string
	}{
		"--source file:PATH or xds:ADDRESS is needed":        {map[string]string{"ENVOY_BIN": "/bin/true"}, nil},
		"--name NAMESPACE/NAME is needed":                    {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--source", "file:x.yaml"}},
		"POD_NAME is not set":                                {map[string]string{"ENVOY_BIN": "/bin/true", "CA_ADDR": "istiod:15012"}, nil},
		"want xds:HOST:PORT":                                 {map[string]string{"ENVOY_BIN": "/bin/true", "CA_ADDR": "istiod"}, nil},
		"concurrency of ProxyConfig: many is no":             {map[string]string{"ENVOY_BIN": "/bin/true", "CA_ADDR": "istiod:1", "PROXY_CONFIG": `{"concurrency":"many"}`}, nil},
		"terminationDrainDuration of ProxyConfig: 5":         {map[string]string{"ENVOY_BIN": "/bin/true", "CA_ADDR": "istiod:1", "PROXY_CONFIG": `{"terminationDrainDuration":5}`}, nil},
		"unknown arguments":                                  {nil, []string{"serve"}},
		"unknown flag":                                       {nil, []string{"--nonsense"}},
		"want debug, info, warn or error":                    {nil, []string{"--log-level", "loud"}},
		"--identity who: want none or address":               {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--identity", "who"}},
		"--identity address is for an istiod":                {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--source", "file:x", "--name", "a/b", "--identity", "address"}},
		"--concurrency -3: a number from 0 on":               {nil, []string{"--concurrency", "-3"}},
		"--max-connections -1: a number from 0":              {nil, []string{"--max-connections", "-1"}},
		"--drain -5s: a time from 0 on":                      {nil, []string{"--drain", "-5s"}},
		"--hold -1ns: a time from 0 on":                      {nil, []string{"--hold", "-1ns"}},
		"--locality /x//: want REGION":                       {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--source", "file:x", "--name", "a/b", "--locality", "/x//"}},
		"--locality /x: want REGION":                         {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--source", "file:x", "--name", "a/b", "--locality", "/x"}},
		"--admin 0.0.0.0:0: want an address on the loopback": {nil, []string{"--admin", "0.0.0.0:0"}},
		"--admin :15200: want an address on the loopback":    {nil, []string{"--admin", ":15200"}},
		"--admin nonsense: want an address with a port":      {nil, []string{"--admin", "nonsense"}},
		"INSTANCE_IP=foo is no address of a pod":             {map[string]string{"ENVOY_BIN": "/bin/true", "CA_ADDR": "istiod:1", "POD_NAME": "a", "POD_NAMESPACE": "b", "INSTANCE_IP": "foo"}, nil},
		"--expose x: want":                                   {map[string]string{"ENVOY_BIN": "/bin/true"}, []string{"--source", "file:x", "--name", "a/b", "--expose", "x"}},
	} {
		code, said := try(t, c.env, c.args...)
		if code != exitUsage || !strings.Contains(said, want) {
			t.Errorf("%v: exit %d, %q, want %q", c.args, code, said, want)
		}
	}
}

// On a read-only root the directory for sockets is made where istiod's template mounts one.
func TestDirectoryOnAReadOnlyRoot(t *testing.T) {
	mounted := t.TempDir()
	dir, remove, err := temporary([]string{"/proc/self", mounted})
	if err != nil || !strings.HasPrefix(dir, mounted) {
		t.Fatalf("%s, %v", dir, err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, _, err := temporary([]string{"/proc/self"}); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("nowhere to write: %v", err)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// wantAsk runs a command that asks the cluster of c.
func (c cli) wantAsk(tb testing.TB, code int, text string, args ...string) string {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("/proc/self/exe", append(args, "--run-dir", c.runDir)...)
	cmd.Env = append(os.Environ(), asMainEnv+"=1")
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		tb.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code || !strings.Contains(out.String()+errs.String(), text) {
		tb.Errorf("%s: exit code %d, want %d with %q:\n%s%s", strings.Join(args, " "), got, code, text, out.String(), errs.String())
	}
	return out.String()
}

func TestAskRunningCluster(t *testing.T) {
	c, id := mustUp(t)
	c.wantAsk(t, 0, "default/client", "status")
	c.wantAsk(t, 0, "default/fortio", "dump", "services")
	c.wantAsk(t, 0, "10.96.0.10:80/TCP", "dump", "endpoints", "--node", "b")
	c.wantAsk(t, 0, "frontends", "dump", "maps", "--cluster", id)

	c.wantAsk(t, 0, "one of 2 endpoints is chosen", "explain", "--from", "client", "--to", "10.96.0.10:80")
	c.wantAsk(t, 0, "declares no port 81/TCP", "explain", "--from", "default/client", "--to", "10.96.0.10:81")
	c.wantAsk(t, 0, "v1 is not enrolled on node a", "explain", "--from", id+"/v1", "--to", "10.96.0.10:80")
	var e api.Explanation
	out := c.wantAsk(t, 0, "", "explain", "--from", "client", "--to", "10.96.0.10:80", "-o", "json")
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	if e.Schema != api.ExplainSchema || e.Exit != "redirect" || len(e.Targets) != 2 || e.Targets[0].Share != .9 || len(e.Differences) != 0 {
		t.Errorf("explanation is %+v", e)
	}
	var nodes []api.Status
	if err := json.Unmarshal([]byte(c.wantAsk(t, 0, "", "status", "-o", "json")), &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[0].Node != "a" || nodes[0].Applied.Generation == 0 {
		t.Errorf("status is %+v", nodes)
	}

	c.wantAsk(t, 2, `no pod "nobody"`, "explain", "--from", "nobody", "--to", "10.96.0.10:80")
	c.wantAsk(t, 2, "want ADDRESS:PORT", "explain", "--from", "client", "--to", "fortio")
	c.wantAsk(t, 2, "are needed", "explain", "--from", "client")
	c.wantAsk(t, 2, "want tcp or udp", "explain", "--from", "client", "--to", "10.96.0.10:80", "--protocol", "sctp")
	c.wantAsk(t, 2, "pod client is on node a, not on b", "explain", "--from", "client", "--to", "10.96.0.10:80", "--node", "b")
	c.wantAsk(t, 2, `has no node "z"`, "status", "--node", "z")
	c.wantAsk(t, 2, `no cluster "x" is running`, "status", "--cluster", "x")
	c.wantAsk(t, 2, "must be table or json", "status", "-o", "xml")
	c.wantAsk(t, 2, "names one agent", "status", "--admin", "127.0.0.1:1", "--node", "a")
}

func TestDumpNothing(t *testing.T) {
	cmd := newRootCmd()
	cmd.SetArgs([]string{"dump", "nothing"})
	var usage usageError
	if err := cmd.Execute(); !errors.As(err, &usage) || !strings.Contains(err.Error(), `unknown command "nothing"`) {
		t.Errorf("got %v", err)
	}
}

func TestAskNobody(t *testing.T) {
	c := cli{runDir: filepath.Join(t.TempDir(), "run")}
	// Port 1 has no server: whoever has an agent on this machine keeps it.
	c.wantAsk(t, 1, "ask admin API at 127.0.0.1:1: ", "status", "--admin", "127.0.0.1:1")
}

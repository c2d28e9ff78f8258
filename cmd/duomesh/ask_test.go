package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// wantAsk runs a command that asks the cluster of c.
func (c cli) wantAsk(tb testing.TB, code int, text string, args ...string) string {
	tb.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("/proc/self/exe", append(args, "--run-dir", c.runDir)...)
	cmd.Env = append(os.Environ(), asMainEnv+"=1", "KUBECONFIG=")
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
	c.wantAsk(t, 0, "default/v1", "dump", "workloads", "--node", "a")
	c.wantAsk(t, 0, "POLICY", "dump", "policies", "--node", "a")
	c.wantAsk(t, 0, "the kernel's maps are what was applied", "diff")

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
	c.wantAsk(t, 2, "must be table, json or yaml", "status", "-o", "xml")
	c.wantAsk(t, 2, "names one agent", "status", "--admin", "127.0.0.1:1", "--node", "a")
}

// fakeAdmin is an admin API that gives the same answer at each path.
func fakeAdmin(t *testing.T, answers map[string]any) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path]) // fails when the asker has gone
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestDiff(t *testing.T) {
	c := cli{runDir: filepath.Join(t.TempDir(), "run")}
	header := api.Header{Schema: api.AuditSchema, Version: api.Version}
	same := fakeAdmin(t, map[string]any{"/audit": api.Audit{Header: header}})
	other := fakeAdmin(t, map[string]any{"/audit": api.Audit{Header: header, Node: "node-b", Differences: []api.Difference{
		{Map: "frontends", Entry: "10.9.0.1:80/TCP", Want: "a", Have: ""},
	}}})
	c.wantAsk(t, 0, "the kernel's maps are what was applied", "diff", "--admin", same)
	c.wantAsk(t, 1, "map frontends, entry 10.9.0.1:80/TCP: applied a, the kernel has nothing", "diff", "--admin", other)
	c.wantAsk(t, 1, `"entry": "10.9.0.1:80/TCP"`, "diff", "--admin", other, "-o", "json")
	c.wantAsk(t, 1, `"node": "node-b"`, "diff", "--admin", other, "-o", "json")
	c.wantAsk(t, 1, "ask admin API at 127.0.0.1:1: ", "diff", "--admin", "127.0.0.1:1")
}

// The form of the answers is that of the question, whoever is down.
func TestAnswersOfACluster(t *testing.T) {
	for _, c := range []struct {
		all  []int
		from []desk
		want string
	}{
		{[]int{1}, []desk{{}}, "1"},
		{[]int{1}, []desk{{node: "a", among: true}}, "[1]"},
		{[]int{1, 2}, []desk{{among: true}, {among: true}}, "[1,2]"},
	} {
		var out bytes.Buffer
		if err := printAnswers(&out, "json", c.all, c.from); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(out.String()), ""); got != c.want {
			t.Errorf("%v of %+v is %s, want %s", c.all, c.from, got, c.want)
		}
		out.Reset()
		if err := printAnswers(&out, "yaml", c.all, c.from); err != nil || strings.HasPrefix(out.String(), "- ") != strings.HasPrefix(c.want, "[") {
			t.Errorf("%v of %+v is %s, %v", c.all, c.from, &out, err)
		}
	}
	nodes := netsim.State{ID: "c", Mesh: scenario.Duomesh, Nodes: []netsim.NodeState{{Name: "a", Admin: &api.Place{}}, {Name: "b"}}}
	for node, among := range map[string]bool{"": true, "a": false} {
		desks, err := desksOf(nodes, node)
		if err != nil || len(desks) != 1 || desks[0].among != among {
			t.Errorf("node %q: %+v, %v", node, desks, err)
		}
	}
}

func TestPoliciesInWords(t *testing.T) {
	c := cli{runDir: filepath.Join(t.TempDir(), "run")}
	header := func(schema string) api.Header { return api.Header{Schema: schema, Version: api.Version} }
	admin := fakeAdmin(t, map[string]any{
		"/status": api.Status{Header: header(api.StatusSchema), Source: api.Source{
			UnenforcedPolicies: 2, UnenforcedWorkloads: 7, Unenforced: []api.Unenforced{
				{Policy: "demo/allow", Workloads: 7, Some: []string{"demo/a", "demo/b"}}, {Policy: "demo/try", DryRun: true},
			},
		}},
		"/policies": api.Policies{Header: header(api.PoliciesSchema), Policies: []api.Policy{
			{Name: "demo/allow", Action: "ALLOW", Scope: "workload", Workloads: []string{"demo/a"}, Rules: []string{"destinationPorts 80"}},
		}},
		"/workloads": api.Workloads{Header: header(api.WorkloadsSchema), Workloads: []api.Workload{
			{Name: "demo/a", Gateway: true, Refused: true, Unenforced: []string{"demo/allow"}},
		}},
	})
	for text, args := range map[string][]string{
		"2 received, NOT ENFORCED; they name 7 workloads, connections to them are NOT refused":                    {"status"},
		"demo/allow received, NOT ENFORCED, names 7 workloads: demo/a, demo/b and 5 more, see `duomesh dump poli": {"status"},
		"demo/try received, dry run, names 0 workloads":                                                           {"status"},
		"destinationPorts 80":          {"dump", "policies"},
		"not ready, waypoint, refused": {"dump", "workloads"},
		"POLICIES, NOT ENFORCED":       {"dump", "workloads"},
		`"enforced": false`:            {"dump", "policies", "-o", "json"},
	} {
		c.wantAsk(t, 0, text, append(args, "--admin", admin)...)
	}
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

func TestOneThatIsDownHidesNoOther(t *testing.T) {
	admin := fakeAdmin(t, map[string]any{
		"/status": api.Status{Header: api.Header{Schema: api.StatusSchema, Version: api.Version}, Node: "b"},
	})
	desks := []desk{{node: "a", place: api.Place{Address: "127.0.0.1:1"}}, {node: "b", place: api.Place{Address: admin}}}
	all, from, err := askAll(t.Context(), desks, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx, "") })
	if len(all) != 1 || all[0].Node != "b" || len(from) != 1 || from[0].node != "b" {
		t.Errorf("answers: %+v", all)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "node a: ") || strings.Contains(err.Error(), "node b") {
		t.Errorf("error: %v", err)
	}
}

// rendezvous returns what each of n calls, and which returns when all have.
func rendezvous(n int) func(context.Context) error {
	var asked sync.WaitGroup
	asked.Add(n)
	return func(ctx context.Context) error {
		asked.Done()
		all := make(chan struct{})
		go func() { asked.Wait(); close(all) }()
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// One that does not answer soon lets nobody else wait: here each answers when all are asked.
func TestAllAreAskedAtOnce(t *testing.T) {
	admin := fakeAdmin(t, nil)
	var desks []desk
	for _, node := range []string{"a", "b", "c"} {
		desks = append(desks, desk{node: node, place: api.Place{Address: admin}})
	}
	all := rendezvous(len(desks))
	_, from, err := askAll(t.Context(), desks, func(ctx context.Context, _ *api.Client) (bool, error) {
		return true, all(ctx)
	})
	if err != nil || len(from) != 3 || from[0].node != "a" || from[1].node != "b" || from[2].node != "c" {
		t.Errorf("%+v, %v", from, err)
	}
}

// The kubeconfig of a simulated cluster names that cluster, whatever else runs.
func TestKubeconfigNamesItsCluster(t *testing.T) {
	runDir := t.TempDir()
	for _, id := range []string{"one", "two"} {
		dir := filepath.Join(runDir, id)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		owner, err := os.Open(dir) // as a living cluster has it
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { owner.Close() })
		if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		state, err := json.Marshal(netsim.State{
			Schema: netsim.StateSchema, Version: netsim.StateVersion, ID: id, Mesh: scenario.Duomesh, Kubeconfig: filepath.Join(dir, "kubeconfig"),
			Nodes: []netsim.NodeState{{Name: "node-of-" + id, Admin: &api.Place{Address: "unix:/nowhere"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state.json"), state, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBECONFIG", filepath.Join(runDir, "two", "kubeconfig"))
	for node, f := range map[string]askFlags{
		"node-of-two": {runDir: runDir, output: "table"},
		"node-of-one": {runDir: runDir, output: "table", kube: clusterFlags{cluster.Where{Kubeconfig: filepath.Join(runDir, "one", "kubeconfig")}}},
	} {
		desks, err := f.desks(t.Context(), "")
		if err != nil || len(desks) != 1 || desks[0].node != node {
			t.Errorf("%s: %+v, %v", node, desks, err)
		}
	}
	// The control: that of no simulated cluster.
	t.Setenv("KUBECONFIG", filepath.Join(runDir, "another"))
	if f := (askFlags{runDir: runDir}); !f.onKubernetes() {
		t.Error("a kubeconfig of somebody else names a simulated cluster")
	}
}

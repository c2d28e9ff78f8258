package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestAppliesAndKeepsWhatWorks(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	if code, body := r.get("http://" + r.Admin() + "/ready"); code != 503 {
		t.Errorf("ready before anything was applied: %d %s", code, body)
	}
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	if got := p.exit(t, r); got != intent.PassNoVIP {
		t.Fatalf("without a service: %s", got)
	}
	s := r.apply(web("one", "10.1.0.1"))
	if s.Applied.Generation != 1 || s.Applied.Version != "one" || s.Source.Error != "" || s.Applied.Services != 1 {
		t.Errorf("status is %+v", s)
	}
	if got := p.exit(t, r); got != intent.Redirect {
		t.Fatalf("with a service: %s", got)
	}
	if code, body := r.get("http://" + r.Admin() + "/ready"); code != 200 {
		t.Errorf("not ready: %d %s", code, body)
	}

	// No state at all, and a state that the engine refuses.
	bad := web("three", "10.1.0.1")
	bad.Snapshot.Policies = []*intent.Policy{{Name: "p", Namespace: "default"}}
	for i, u := range []Update{{Version: "two", Err: errors.New("line 7 is wrong")}, bad} {
		s := r.apply(u)
		if s.Applied.Version != "one" || s.Source.Error == "" || s.Source.Errors != uint64(i+1) {
			t.Errorf("after a bad update: %+v", s)
		}
		if got := p.exit(t, r); got != intent.Redirect {
			t.Errorf("after a bad update: %s", got)
		}
	}
	if s := r.apply(web("four", "10.1.0.2")); s.Source.Error != "" || s.Applied.Generation != 2 {
		t.Errorf("after a good update: %+v", s)
	}
}

func TestAdminAPI(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	r.apply(web("one", "10.1.0.1"))
	p.exit(t, r)
	ctx := deadline(t)

	services, err := r.client.Services(ctx)
	must(t, err)
	if len(services.Services) != 1 || services.Services[0].Name != "default/web" {
		t.Errorf("services are %+v", services)
	}
	endpoints, err := r.client.Endpoints(ctx)
	must(t, err)
	if f := endpoints.Frontends; len(f) != 1 || f[0].Frontend != "10.9.0.1:80/TCP" || f[0].Exit != "redirect" ||
		len(f[0].Targets) != 1 || f[0].Targets[0].Share != 1 || f[0].Targets[0].Address.String() != "10.1.0.1:8080" {
		t.Errorf("endpoints are %+v", endpoints)
	}
	maps, err := r.client.Maps(ctx)
	must(t, err)
	if len(maps.Maps) == 0 || maps.Maps[0].Bytes == 0 {
		t.Errorf("maps are %+v", maps)
	}
	exits, err := r.client.Exits(ctx)
	must(t, err)
	if exits.Exits["redirect"] != 1 {
		t.Errorf("exits are %+v", exits)
	}
	audit, err := r.client.Audit(ctx)
	must(t, err)
	if len(audit.Differences) != 0 || audit.Node == "" {
		t.Errorf("audit is %+v", audit)
	}
	for _, bad := range []string{"/explain?from=client&to=10.9.0.1", "/explain?to=10.9.0.1:80", "/explain?from=a&to=10.9.0.1:80&protocol=sctp"} {
		if code, body := r.get("http://" + r.Admin() + bad); code != 400 {
			t.Errorf("%s: %d %s", bad, code, body)
		}
	}
	_, err = r.client.Explain(ctx, "client", "nonsense", "tcp")
	var wrong api.BadRequestError
	if !errors.As(err, &wrong) {
		t.Errorf("a wrong question: %v", err)
	}
}

func TestExplain(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	r.apply(web("one", "10.1.0.1"))
	p.exit(t, r)
	for _, c := range []struct {
		from, to string
		exit     intent.Exit
		count    uint64
		words    string
	}{
		{"client", "10.9.0.1:80", intent.Redirect, 1, "declared port of service default/web"},
		{"default/client", "10.9.0.1:80", intent.Redirect, 1, "are what was applied"},
		{"client", "10.9.0.1:81", intent.RefuseNoPort, 0, "declares no port 81/TCP"},
		{"client", "10.1.0.1:80", intent.PassNoVIP, 0, "default/w's own address"},
		{"other", "10.9.0.1:80", intent.PassUnmanaged, 0, "other is not enrolled on node a"},
	} {
		e, err := r.client.Explain(deadline(t), c.from, c.to, "tcp")
		must(t, err)
		if e.Exit != string(c.exit) || e.Count != c.count || !strings.Contains(strings.Join(e.Why, "\n"), c.words) {
			t.Errorf("%s to %s: %+v, want %s", c.from, c.to, e, c.exit)
		}
	}
	empty := web("two", "10.1.0.1")
	empty.Snapshot.Workloads[0].Weight = 0
	r.apply(empty)
	e, err := r.client.Explain(deadline(t), "client", "10.9.0.1:80", "tcp")
	must(t, err)
	if e.Exit != string(intent.RefuseNoEndpoint) || !strings.Contains(strings.Join(e.Why, "\n"), "default/w: its weight is 0") {
		t.Errorf("without endpoints: %+v", e)
	}
}

func TestMetrics(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	r.apply(web("one", "10.1.0.1"))
	r.apply(Update{Version: "two", Err: errors.New("bad")})
	p.exit(t, r)
	eventually(t, "an audit", func() bool { return r.status().Audit != nil })
	for _, path := range []string{"/metrics", "/status/metric"} {
		code, body := r.get("http://" + r.Metrics() + path)
		if code != 200 {
			t.Fatalf("%s: %d %s", path, code, body)
		}
		for _, want := range []string{
			`duomesh_exits_total{exit="redirect"} 1`,
			`duomesh_events_total{event="refuse-slot-miss"} 0`,
			`duomesh_map_entries{map="managed"} 1`,
			`duomesh_map_entries_limit{map="managed"} [1-9][0-9.e+]*`,
			`duomesh_map_bytes{map="managed"} [1-9][0-9.e+]*`,
			`duomesh_audit_differences 0`,
			`duomesh_snapshot_generation 1`,
			`duomesh_source_errors_total 1`,
			`duomesh_source_healthy 0`,
			`duomesh_enrolled_pods{state="watched"} 1`,
			`duomesh_redirecting 1`,
		} {
			if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(want, "{", `\{`) + `$`).MatchString(body) {
				t.Errorf("%s lacks %s:\n%s", path, want, body)
			}
		}
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	r.apply(web("one", "10.1.0.1"))

	_, err := Open(g.config(t))
	wantError(t, err, "another engine")
	other := newGround(t)
	cfg := g.config(t)
	cfg.Host.BPFFS, cfg.EnrolSocket, cfg.State = other.bpffs, other.dir+"/e", other.dir+"/s"
	_, err = Open(cfg)
	wantError(t, err, "another engine is attached")
	if dataplane.Pinned(other.bpffs) {
		t.Error("the refused agent left pins")
	}
	wantError(t, dataplane.RemovePins(g.bpffs), "end it first")
	if got := p.exit(t, r); got != intent.Redirect {
		t.Errorf("the first agent's engine: %s", got)
	}
	// The control: when the first has ended, the same is not refused.
	must(t, r.stop())
	next := g.start(t)
	if got := p.exit(t, next); got != intent.Redirect {
		t.Errorf("after the take-over: %s", got)
	}
}

// What an earlier agent has left is said where there is something.
func TestStatusSaysWhatAnEarlierAgentLeft(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	if s := r.status(); s.Applied.Generation != 0 || s.Applied.Inherited {
		t.Errorf("of nobody: %+v", s.Applied)
	}
	_, err := r.client.Audit(deadline(t))
	wantError(t, err, "nothing has been applied since the agent started")
	must(t, r.stop())
	r = g.start(t)
	if s := r.status(); s.Applied.Inherited {
		t.Errorf("of one that has applied nothing: %+v", s.Applied)
	}
	r.apply(web("one", "10.1.0.1"))
	must(t, r.stop())
	r = g.start(t)
	if s := r.status(); s.Applied.Generation != 0 || !s.Applied.Inherited {
		t.Errorf("of one that has applied something: %+v", s.Applied)
	}
	if s := r.apply(web("two", "10.1.0.2")); s.Applied.Inherited {
		t.Errorf("after an update: %+v", s.Applied)
	}
}

func TestFailedOpenLeavesWhatWas(t *testing.T) {
	g := newGround(t)
	cfg := g.config(t)
	cfg.Admin = "0.0.0.0:0"
	_, err := Open(cfg)
	wantError(t, err, "must be an address of the loopback")
	cfg.Admin, cfg.Metrics = "", "127.0.0.1:99999"
	_, err = Open(cfg)
	wantError(t, err, "metrics: ")
	if dataplane.Pinned(g.bpffs) {
		t.Error("an agent that did not start left pins")
	}
	r := g.start(t)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	r.apply(web("one", "10.1.0.1"))
	must(t, r.stop())
	_, err = Open(cfg)
	wantError(t, err, "metrics: ")
	if !dataplane.Pinned(g.bpffs) {
		t.Error("an agent that did not start removed what an earlier one had pinned")
	}
	must(t, dataplane.RemovePins(g.bpffs))
	must(t, dataplane.RemovePins(g.bpffs)) // again
	if dataplane.Pinned(g.bpffs) {
		t.Error("pins are left")
	}
}

func TestCgroupRemovedUnderTheEngine(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	must(t, os.Remove(g.cgroup))
	err := <-r.ended
	wantError(t, err, "node a: cgroup "+g.cgroup+" was removed")
	r.ended <- nil
	must(t, r.stop())
	// Another cgroup of the same path is another cgroup: refused by name.
	must(t, os.Mkdir(g.cgroup, 0o755))
	_, err = Open(g.config(t))
	wantError(t, err, "attached to cgroup")
	// The way out that --remove is.
	must(t, dataplane.RemovePins(g.bpffs))
	g.start(t).apply(web("one", "10.1.0.1"))
}

func TestPinsOfOthersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, pins string)
		want  string
	}{
		"another ABI": {func(t *testing.T, pins string) {
			must(t, os.Mkdir(filepath.Join(filepath.Dir(pins), "abi-999"), 0o700))
		}, "abi-999"},
		"a map is missing": {func(t *testing.T, pins string) {
			must(t, os.Remove(filepath.Join(pins, "slots")))
		}, "map slots is not"},
		"a link is something else": {func(t *testing.T, pins string) {
			link := filepath.Join(pins, "link_mesh_connect4")
			must(t, os.Remove(link))
			must(t, os.Mkdir(link, 0o700))
		}, "link_mesh_connect4"},
		"nothing: the control": {func(*testing.T, string) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGround(t)
			r := g.start(t)
			p := g.pod(t, "client")
			must(t, p.enrol(t, r))
			r.apply(web("one", "10.1.0.1"))
			must(t, r.stop())
			found, err := filepath.Glob(filepath.Join(g.bpffs, "duomesh", "abi-*"))
			must(t, err)
			if len(found) != 1 {
				t.Fatalf("pins are in %v", found)
			}
			c.spoil(t, found[0])
			a, err := Open(g.config(t))
			if c.want == "" {
				must(t, err)
				must(t, a.Close())
				return
			}
			wantError(t, err, c.want)
			if !dataplane.Pinned(g.bpffs) {
				t.Error("what was refused was removed")
			}
			must(t, dataplane.RemovePins(g.bpffs))
			if got := p.exit(t, g.start(t)); got != intent.PassUnmanaged {
				t.Errorf("after all was taken away: %s", got)
			}
		})
	}
}

// TestRetriesWhatTheKernelRefused: somebody else fills a map behind the engine's back,
// so that the kernel refuses an update in the middle. It is applied once there is room,
// without any news of the source.
func TestRetriesWhatTheKernelRefused(t *testing.T) {
	g := newGround(t)
	cfg := g.config(t)
	cfg.Engine.Limits.Frontends = 64
	r := g.startAs(t, cfg)
	p := g.pod(t, "client")
	must(t, p.enrol(t, r))
	m, err := ebpf.LoadPinnedMap(filepath.Join(dataplane.Pins(g.bpffs), "frontends"), nil)
	must(t, err)
	defer m.Close()
	junk := fill(t, m)
	s := r.apply(web("one", "10.1.0.1"))
	if !strings.Contains(s.Source.Error, "the kernel refused it in the middle") || s.Applied.Generation != 0 {
		t.Fatalf("with a full map: %+v", s)
	}
	eventually(t, "a second try", func() bool { return r.status().Source.Retries > 0 })
	if s := r.status(); s.Source.Error == "" || s.Source.Errors != 1 {
		t.Errorf("still with a full map: %+v", s.Source)
	}
	for _, key := range junk {
		must(t, m.Delete(key))
	}
	eventually(t, "the update is applied", func() bool { return r.status().Applied.Version == "one" })
	if s := r.status(); s.Source.Error != "" || s.Source.Errors != 1 {
		t.Errorf("with room again: %+v", s.Source)
	}
	if got := p.exit(t, r); got != intent.Redirect {
		t.Errorf("with room again: %s", got)
	}
}

// fill puts entries into a map until it is full, and returns their keys. They name
// slots that there are none of.
func fill(t *testing.T, m *ebpf.Map) [][]byte {
	t.Helper()
	value := bytes.Repeat([]byte{0xff}, int(m.ValueSize()))
	var keys [][]byte
	for i := uint32(0); ; i++ {
		key := bytes.Repeat([]byte{0xff}, int(m.KeySize()))
		binary.NativeEndian.PutUint32(key, i)
		err := m.Put(key, value)
		if errors.Is(err, unix.E2BIG) {
			return keys
		}
		must(t, err)
		keys = append(keys, key)
	}
}

package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/dataplane/l7/api"
	"github.com/duomesh/duomesh/netsim"
)

// fakeWaypoint answers as a waypoint's admin API does, and returns its address.
func fakeWaypoint(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(body)) })
	}
	answer("GET /status", `{"schema":"`+api.Schema+`","version":1,"waypoint":"default/`+name+`","ready":true}`)
	answer("GET /config", `{"config of":"`+name+`"}`)
	answer("GET /counters", `{"counter.of.`+name+`":3}`)
	s := &http.Server{Handler: mux}
	go s.Serve(l) // ends with Close
	t.Cleanup(func() { s.Close() })
	return "unix:" + path
}

// Those who ask a waypoint find that of a simulated cluster, and are told what to do where
// none answers.
func TestWaypointsOfASimulatedCluster(t *testing.T) {
	pods := func(all ...netsim.PodState) netsim.State {
		return netsim.State{ID: "sim", Nodes: []netsim.NodeState{{Name: "a", Pods: append(all, netsim.PodState{Name: "client"})}}}
	}
	one, two := netsim.PodState{Name: "way", Waypoint: fakeWaypoint(t, "way")}, netsim.PodState{Name: "other", Waypoint: fakeWaypoint(t, "other")}
	dead := netsim.PodState{Name: "dead", Waypoint: "unix:" + filepath.Join(t.TempDir(), "admin.sock")}
	for what, c := range map[string]struct {
		state netsim.State
		name  string
		pods  string
		says  string
	}{
		"all":         {pods(one, two), "", "way other", ""},
		"one of them": {pods(one, two), "other", "other", ""},
		"as a Pod":    {pods(one, two), "default/way", "way", ""},
		"nobody":      {pods(one, two), "nobody", "", `cluster sim has no waypoint pod "nobody": there are way, other`},
		"no waypoint": {pods(), "", "", "cluster sim has no waypoint"},
	} {
		desks, err := waypointsOf(c.state, strings.TrimPrefix(c.name, "default/"))
		var names []string
		for _, d := range desks {
			names = append(names, d.pod)
		}
		if strings.Join(names, " ") != c.pods || (err == nil) != (c.says == "") || err != nil && err.Error() != c.says {
			t.Errorf("%s: %v, %v", what, names, err)
		}
	}
	desks, err := waypointsOf(pods(one, dead, two), "")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = statusOfAll(t.Context(), desks, "table", &out)
	if err == nil || !strings.Contains(err.Error(), "waypoint dead: its process does not run (duomesh netsim start --cluster sim") {
		t.Errorf("one that does not run: %v", err)
	}
	if said := out.String(); !strings.Contains(said, "waypoint default/way: ready") || !strings.Contains(said, "waypoint default/other: ready") {
		t.Errorf("one that is down hides others: %s", said)
	}
}

func TestWaypointCommands(t *testing.T) {
	address := fakeWaypoint(t, "way")
	c := cli{runDir: t.TempDir()}
	ask := func(code int, text string, args ...string) {
		t.Helper()
		c.wantAsk(t, code, text, append([]string{"waypoint"}, args...)...)
	}
	ask(0, "waypoint default/way: ready", "status", "--address", address)
	ask(0, `{"config of":"way"}`, "config", "--address", address)
	ask(0, "counter.of.way: 3", "stats", "--address", address, "counter")
	ask(2, "--address names one waypoint", "config", "way", "--address", address)
	ask(1, "no simulated cluster is running, and no waypoint answers here", "status")
	ask(1, "no simulated cluster is running, and no waypoint answers here", "stats")
	ask(2, "no cluster is named: set KUBECONFIG, or give --kubeconfig FILE", "config", "way")
	ask(2, `unknown command "nonsense": see duomesh waypoint --help`, "nonsense")
	ask(0, "List", "ls", "--help")
}

// What a waypoint says of its source is true where a part of it is refused.
func TestWaypointIsPrinted(t *testing.T) {
	for want, s := range map[string]api.Source{
		"Envoy has version 7, the newest is 8":        {Applied: "7", Seen: "8"},
		"Envoy has version 8, the newest is 8":        {Applied: "8", Seen: "8"},
		"Envoy has what it takes of version 8\n":      {Applied: "8", Seen: "8", Problem: "refused:\none line\n\n"},
		"         refused:\n         one line\nenvoy": {Applied: "8", Seen: "8", Problem: "refused:\none line\n\n"},
		"Envoy has nothing, the newest is 8":          {Seen: "8"},
		"nothing has come":                            {},
	} {
		var out strings.Builder
		printWaypoint(&out, api.Status{Source: s, Envoy: api.Envoy{Restarts: 1}})
		if !strings.Contains(out.String(), want) || !strings.Contains(out.String(), "started again once") {
			t.Errorf("%+v: %s, want %q", s, out.String(), want)
		}
	}
}

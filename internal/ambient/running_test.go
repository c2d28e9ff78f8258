package ambient

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestAboutIsTheProxysOwnWords: what does not say its version or its threads is no
// ztunnel, and said so.
func TestAboutIsTheProxysOwnWords(t *testing.T) {
	const version = `"version": {"version": "1.31.1", "gitRevision": "62d8", "rustVersion": "1.95.0", "buildProfile": "release", "buildStatus": "Clean", "cryptoProvider": "tls-aws-lc"}`
	a, err := parseAbout([]byte(`{"workloads": [], ` + version + `, "config": {"proxy": true, "numWorkerThreads": 2}}`))
	if err != nil || a.Version != "1.31.1 62d8 release tls-aws-lc" || a.Workers != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	for dump, want := range map[string]string{
		`{` + version + `, "config": {}}`:    "how many threads",
		`{"config": {"numWorkerThreads":2}}`: "which version",
		`Not Found`:                          "read the node proxy's configuration",
	} {
		if _, err := parseAbout([]byte(dump)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dump, err, want)
		}
	}
}

// TestRunningIsAskedInItsNamespace: what listens in another one is not asked.
func TestRunningIsAskedInItsNamespace(t *testing.T) {
	here, there := space(t), space(t)
	l, err := listenIn(here, metricsAddress)
	if err != nil {
		t.Fatal(err)
	}
	const counters = `# TYPE istio_tcp_connections_opened_total counter
istio_tcp_connections_opened_total{reporter="source",source_principal="a",destination_principal="b",connection_security_policy="mutual_tls"} 7
`
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, counters) })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() {
		server.Close()
		<-served
	}()
	r := At(here)
	defer r.Close()
	all, err := r.Opened(t.Context())
	want := Opened{Reporter: ReporterSource, Source: "a", Destination: "b", Security: SecurityMutual, Count: 7}
	if err != nil || len(all) != 1 || all[0] != want {
		t.Errorf("%+v, %v", all, err)
	}
	other := At(there)
	defer other.Close()
	if all, err := other.Opened(t.Context()); err == nil {
		t.Errorf("in another namespace: %+v", all)
	}
}

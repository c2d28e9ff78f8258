package testsum

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStreamEndsWhatGoTestLeftOpen(t *testing.T) {
	events := `{"Action":"start","Package":"p"}
{"Time":"2026-01-02T03:04:05Z","Action":"run","Package":"p","Test":"TestDone"}
{"Action":"pass","Package":"p","Test":"TestDone"}
{"Action":"run","Package":"p","Test":"TestOpen"}
{"Action":"run","Package":"p","Test":"TestOpen/sub"}
{"Action":"start","Package":"q"}
not an event
`
	var progress bytes.Buffer
	s := newStream(&progress, nil)
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	s.finish()
	want := map[string]string{
		"p TestDone":     "",
		"p TestOpen/sub": "ended without a result",
		"q (package)":    "ended without a result",
	}
	got := map[string]string{}
	for _, c := range s.cases {
		got[c.Package+" "+c.Name] = c.Reason
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cases (-want +got):\n%s", diff)
	}
	if n := Count(s.cases); n != (Tally{Passed: 1, Failed: 2}) {
		t.Errorf("tally is %v", n)
	}
	if !strings.Contains(progress.String(), "not an event") {
		t.Error("a line that is no event was swallowed")
	}
	if !strings.Contains(progress.String(), " 0.0s\n") {
		t.Errorf("the time of what did not end: %s", &progress)
	}
}

// A suite whose Go test passed without writing a report has shown nothing.
func TestStreamSuiteWithoutReportHasFailed(t *testing.T) {
	events := `{"Action":"run","Package":"p","Test":"TestSuite"}
{"Action":"output","Package":"p","Test":"TestSuite","Output":"Running Suite: p - /p\n"}
{"Action":"pass","Package":"p","Test":"TestSuite"}
{"Action":"pass","Package":"p"}
`
	s := newStream(new(bytes.Buffer), map[string]suiteFunc{
		"p": func(bool) ([]Case, error) { return readGinkgo(t.TempDir()+"/none.json", "p") },
	})
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if n := Count(s.cases); n != (Tally{Failed: 1}) {
		t.Errorf("tally is %v", n)
	}
}

func TestWriteClosing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cases []Case
		want  string
	}{
		{"none", nil, "no test ran: that is a failure\ntotal: 0 passed, 0 failed, 0 skipped\n"},
		{"all kinds", []Case{
			{Package: "p", Name: "A", Outcome: Passed},
			{Package: "p", Name: "B", Outcome: Skipped, Reason: "NOT RUN: why"},
			{Package: "p", Name: "C", Outcome: Failed, Reason: "no"},
		}, "failed: p C: no\ntotal: 1 passed, 1 failed, 1 skipped\nskipped: p B: NOT RUN: why\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			if err := WriteClosing(&got, tt.cases); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Errorf("closing lines (-want +got):\n%s", diff)
			}
		})
	}
}

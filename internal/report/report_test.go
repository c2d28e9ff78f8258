package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"
)

func sample() []Result {
	ok := Result{Scenario: "a", World: "netsim", Run: 1, Verdict: Pass, Connections: 10}
	ok.Add(Checkf("no leak", true, "0 SYNs"))
	bad := Result{Scenario: "b", World: "netsim", Run: 1, Verdict: Pass, Connections: 5}
	bad.Add(Checkf("no leak", false, "3 SYNs"), Check{Name: "lost", Verdict: Inconclusive, Detail: "2"})
	skip := Result{Scenario: "c", World: "netsim", Run: 1, Verdict: NotRun, Reason: "no IPv6"}
	return []Result{ok, bad, skip}
}

func TestVerdictOrder(t *testing.T) {
	order := []Verdict{Pass, NotRun, Inconclusive, Fail}
	for i, a := range order {
		for j, b := range order {
			if want := order[max(i, j)]; a.Worse(b) != want {
				t.Errorf("%s and %s: got %s, want %s", a, b, a.Worse(b), want)
			}
		}
	}
	codes := map[Verdict]int{Pass: 0, Fail: 1, Inconclusive: 3, NotRun: 3}
	for v, want := range codes {
		if v.ExitCode() != want {
			t.Errorf("%s: exit code %d, want %d", v, v.ExitCode(), want)
		}
	}
	if Overall(nil) != NotRun {
		t.Errorf("nothing run counts as %s", Overall(nil))
	}
}

func TestWriters(t *testing.T) {
	results := sample()
	var lines, tab, junit bytes.Buffer
	if err := WriteJSON(&lines, results); err != nil {
		t.Fatal(err)
	}
	var first struct {
		Schema  string
		Version int
		Result
	}
	if err := json.Unmarshal([]byte(strings.Split(lines.String(), "\n")[1]), &first); err != nil {
		t.Fatal(err)
	}
	if first.Schema != SchemaVerify || first.Version != SchemaVersion || first.Verdict != Fail {
		t.Errorf("second line reads back as %+v", first)
	}
	if err := WriteTable(&tab, results); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 SYNs", "no IPv6", "1 passed, 1 failed, 0 inconclusive, 1 not run; 15 connections"} {
		if !strings.Contains(tab.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, tab.String())
		}
	}
	if err := WriteJUnit(&junit, results); err != nil {
		t.Fatal(err)
	}
	var suite junitSuite
	if err := xml.Unmarshal(junit.Bytes(), &suite); err != nil {
		t.Fatal(err)
	}
	if suite.Tests != 3 || suite.Failures != 1 || suite.Skipped != 1 || suite.Cases[1].Failure == nil {
		t.Errorf("junit reads back as %+v", suite)
	}
}

package report

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
)

// SchemaVerify and SchemaVersion mark every JSON line of a gate.
const (
	SchemaVerify  = "duomesh.verify"
	SchemaVersion = 1
)

// WriteJSON writes one JSON line per result, each with schema and version.
func WriteJSON(w io.Writer, results []Result) error {
	enc := json.NewEncoder(w)
	for _, r := range results {
		line := struct {
			Schema  string `json:"schema"`
			Version int    `json:"version"`
			Result
		}{SchemaVerify, SchemaVersion, r}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("write result of %s: %w", r.Scenario, err)
		}
	}
	return nil
}

// WriteTable writes a verdict table for people: one row per run, then the
// details of everything that did not pass, then the closing line.
func WriteTable(w io.Writer, results []Result) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"scenario", "world", "run", "connections", "checks", "verdict", "time"})
	for _, r := range results {
		t.AppendRow(table.Row{
			r.Scenario, r.World, r.Run, r.Connections, len(r.Checks), r.Verdict, r.Elapsed.Round(1e6),
		})
	}
	if _, err := fmt.Fprintln(w, t.Render()); err != nil {
		return fmt.Errorf("write verdict table: %w", err)
	}
	_, err := io.WriteString(w, details(results)+Closing(results)+"\n")
	return err
}

func details(results []Result) string {
	var b strings.Builder
	for _, r := range results {
		if r.Reason != "" {
			fmt.Fprintf(&b, "%s #%d %s: %s\n", r.Scenario, r.Run, r.Verdict, r.Reason)
		}
		for _, c := range r.Failed() {
			fmt.Fprintf(&b, "%s #%d %s: %s: %s\n", r.Scenario, r.Run, c.Verdict, c.Name, c.Detail)
		}
	}
	return b.String()
}

// Closing returns the counting line of a gate.
func Closing(results []Result) string {
	n := map[Verdict]int{}
	connections := 0
	for _, r := range results {
		n[r.Verdict]++
		connections += r.Connections
	}
	return fmt.Sprintf("verdict %s: %d passed, %d failed, %d inconclusive, %d not run; %d connections judged",
		Overall(results), n[Pass], n[Fail], n[Inconclusive], n[NotRun], connections)
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     float64     `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    float64       `xml:"time,attr"`
	Failure *junitMessage `xml:"failure,omitempty"`
	Error   *junitMessage `xml:"error,omitempty"`
	Skipped *junitMessage `xml:"skipped,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes the results as one JUnit test suite: an inconclusive
// verdict is an error, a scenario that did not run is skipped.
func WriteJUnit(w io.Writer, results []Result) error {
	suite := junitSuite{Name: "duomesh verify", Tests: len(results)}
	for _, r := range results {
		c := junitCase{
			Class: "duomesh." + r.World,
			Name:  fmt.Sprintf("%s #%d", r.Scenario, r.Run),
			Time:  r.Elapsed.Seconds(),
		}
		msg := &junitMessage{Message: string(r.Verdict), Text: details([]Result{r})}
		switch r.Verdict {
		case Fail:
			suite.Failures++
			c.Failure = msg
		case Inconclusive:
			suite.Errors++
			c.Error = msg
		case NotRun:
			suite.Skipped++
			c.Skipped = msg
		}
		suite.Time += c.Time
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(suite); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

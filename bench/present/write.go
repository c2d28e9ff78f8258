package present

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/perf/benchfmt"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/bench/stats"
)

const howToRead = "Times are microseconds. p50, p90, p99: middle over trials. Added and ratio: paired inside blocks, with 95 % intervals. " +
	"CPU c/s/p/o: client pod, server pod, proxies between them, rest of the machine. How to read this: docs/reading-results.md"

// Text writes the summary for a terminal. Path is where its files are.
func Text(w io.Writer, s result.Summary, path string) error {
	return write(w, s, path, form{
		heading: func(t string) string { return t + "\n" },
		line:    func(t string) string { return t + "\n" },
		table:   func(t table.Writer) string { return t.Render() + "\n" },
	})
}

// Markdown writes the summary as Markdown.
func Markdown(w io.Writer, s result.Summary, path string) error {
	return write(w, s, path, form{
		heading: func(t string) string { return "## " + t + "\n\n" },
		line:    func(t string) string { return t + "\n\n" },
		table:   func(t table.Writer) string { return t.RenderMarkdown() + "\n\n" },
	})
}

// form is how headings, lines and tables look.
type form struct {
	heading, line func(string) string
	table         func(table.Writer) string
}

func write(w io.Writer, s result.Summary, path string, f form) error {
	var b strings.Builder
	b.WriteString(f.line(verdictLine(s)) + f.line(result.NotAnswerable))
	for _, g := range s.Groups {
		if len(g.Rows) == 0 {
			continue
		}
		b.WriteString("\n" + f.heading(title(s, g)) + f.table(groupTable(g)) + f.line(floorLine(g)))
		for _, line := range standInLines(g) {
			b.WriteString(f.line(line))
		}
		if t := versusTable(g); t.Length() > 0 {
			b.WriteString("\n" + f.table(t))
		}
	}
	for _, part := range []struct {
		title string
		table table.Writer
	}{
		{"What 1000 requests a second take", costTable(s)},
		{"Where the time goes", breakdownTable(s)}, {"How a connection comes to stand", connectsTable(s)},
		{"Short connections to several services", reuseTable(s)},
	} {
		if part.table.Length() > 0 {
			b.WriteString("\n" + f.heading(part.title) + f.table(part.table))
		}
	}
	for _, line := range absentLines(s) {
		b.WriteString("\n" + f.line(line))
	}
	if len(s.Targets) > 0 {
		b.WriteString("\n" + f.heading("Targets") + f.table(targetTable(s)))
	}
	b.WriteString("\n" + f.heading("Validity") + f.table(checkTable(s)) + "\n")
	b.WriteString(f.line(howToRead))
	b.WriteString(f.line(noiseLine(s)))
	b.WriteString(f.line(environmentLine(s)))
	for _, line := range proxyLines(s) {
		b.WriteString(f.line(line))
	}
	b.WriteString(f.line("the same run again: " + result.Command(s)))
	b.WriteString(f.line("files: " + path))
	b.WriteString(f.line(verdictLine(s)))
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes a summary or a comparison as indented JSON.
func JSON[T result.Summary | result.Comparison](w io.Writer, x T) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(x)
}

// Benchstat writes one line per kept trial in the Go benchmark format, for
// `benchstat -col /variant`.
func Benchstat(w io.Writer, r result.Run) error {
	out := benchfmt.NewWriter(w)
	for _, t := range r.Trials {
		if !t.Kept {
			continue
		}
		samples, err := r.Samples(t)
		if err != nil {
			return fmt.Errorf("samples of %s: %w", t, err)
		}
		rec := &benchfmt.Result{
			Name:   benchfmt.Name(fmt.Sprintf("HTTP/placement=%s/mode=%s/variant=%s", t.Placement, t.Mode, t.Variant)),
			Iters:  t.Client.Requests,
			Values: values(t, result.Latencies(samples)),
		}
		rec.Config = config(r.Head.Environment)
		if err := out.Write(rec); err != nil {
			return err
		}
	}
	return nil
}

func config(e result.Environment) []benchfmt.Config {
	var all []benchfmt.Config
	for _, c := range [][2]string{{"goarch", e.Arch}, {"cpu", e.CPU}, {"kernel", e.Kernel}, {"commit", e.Revision}} {
		if c[1] != "" {
			all = append(all, benchfmt.Config{Key: c[0], Value: []byte(c[1]), File: true})
		}
	}
	return all
}

func values(t result.Trial, service stats.Sorted) []benchfmt.Value {
	perRequest := float64(max(t.Server.Requests, 1))
	return []benchfmt.Value{
		{Value: 1e3 * service.Quantile(0.5), Unit: "p50-ns"},
		{Value: 1e3 * service.Quantile(0.9), Unit: "p90-ns"},
		{Value: 1e3 * service.Quantile(0.99), Unit: "p99-ns"},
		{Value: float64(t.CPU.Roles().Nanoseconds()) / perRequest, Unit: "cpu-ns/req"},
		{Value: float64(t.Client.Requests) / t.Client.Elapsed.Seconds(), Unit: "req/s"},
	}
}

package bench

import (
	"io"

	"github.com/duomesh/duomesh/bench/present"
	"github.com/duomesh/duomesh/bench/present/page"
	"github.com/duomesh/duomesh/bench/record"
	"github.com/duomesh/duomesh/bench/result"
)

// writeSummary writes the derived files of a run's directory.
func writeSummary(path string, run result.Run, s result.Summary) error {
	for name, write := range map[string]func(io.Writer) error{
		"summary.json": func(w io.Writer) error { return present.JSON(w, s) },
		"summary.md":   func(w io.Writer) error { return present.Markdown(w, s, record.Name(run.Head)) },
		"report.html":  func(w io.Writer) error { return page.Write(w, s, record.Name(run.Head)) },
		"bench.txt":    func(w io.Writer) error { return present.Benchstat(w, run) },
	} {
		if err := record.WriteFile(path, name, write); err != nil {
			return err
		}
	}
	return nil
}

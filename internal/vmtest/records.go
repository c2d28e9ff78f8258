package vmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// readRecords reads what a machine sent. A last line that is cut off is left
// out: the machine died in it, which others see.
func readRecords(path string) ([]guest.Record, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	defer f.Close()
	var records []guest.Record
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return records, fmt.Errorf("read records: %w", err)
		}
		var r guest.Record
		if err := json.Unmarshal(line, &r); err != nil {
			return records, fmt.Errorf("read record %d: %w", len(records)+1, err)
		}
		records = append(records, r)
	}
}

// result is what is known of one run.
type result struct {
	name    string
	output  string
	exit    int
	problem string // why exit is not a program's own, else empty
	elapsed time.Duration
}

// results gathers records by run, in the order of the job. A run of which
// nothing was heard is there as well.
func results(job []guest.Run, records []guest.Record) map[string]*result {
	all := map[string]*result{}
	output := map[string]*strings.Builder{}
	for _, r := range job {
		all[r.Name] = &result{name: r.Name, problem: "it was never started"}
		output[r.Name] = &strings.Builder{}
	}
	for _, r := range records {
		one := all[r.Name]
		switch {
		case one == nil:
		case r.Kind == guest.Start:
			one.problem = "it did not end"
		case r.Kind == guest.Output:
			output[r.Name].WriteString(r.Data)
		case r.Kind == guest.End:
			one.exit, one.problem, one.elapsed = r.Exit, r.Data, r.Elapsed
			if r.TimedOut {
				one.problem = fmt.Sprintf("it had not ended after %s", r.Elapsed.Round(time.Second))
			}
		}
	}
	for name, b := range output {
		all[name].output = b.String()
	}
	return all
}

// booted is what a kernel said when init ran: its own name for itself, and how long
// it took.
func booted(records []guest.Record) guest.Record {
	for _, r := range records {
		if r.Kind == guest.Boot {
			return r
		}
	}
	return guest.Record{}
}

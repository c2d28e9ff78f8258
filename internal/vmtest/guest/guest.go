// Package guest is what a test machine and its host say to each other: the job
// that the host puts into the machine's file system, and the records that the
// machine sends back over its second serial port, one JSON object a line.
package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Paths in the machine's file system.
const (
	// JobPath is the Job as JSON.
	JobPath = "/job.json"
	// ModuleDir holds the kernel modules, under their own names.
	ModuleDir = "/modules"
	// TestDir holds the programs to run.
	TestDir = "/test"
)

// The machine's devices.
const (
	// ResultPort is the serial port that records are written to.
	ResultPort = "/dev/ttyS1"
	// ExitPort is the I/O port of QEMU's isa-debug-exit device: a byte N
	// written to it ends the machine at once with exit status N<<1 | 1.
	ExitPort = 0xf4
)

// What init does to its own machine when it is run with the word as argument:
// the host's negative controls.
const (
	Panic    = "panic"
	Hang     = "hang"
	PowerOff = "power-off"
)

// Job is what a machine does before it ends.
type Job struct {
	// Modules are file names in ModuleDir, in the order of loading.
	Modules []string `json:"modules,omitempty"`
	// Runs are programs, run one after the other.
	Runs []Run `json:"runs,omitempty"`
}

// Run is one program.
type Run struct {
	// Name is unique in a job.
	Name string `json:"name"`
	// Argv is the program, as a path in the machine, and its arguments.
	Argv []string `json:"argv"`
	// Env is added to the program's environment.
	Env []string `json:"env,omitempty"`
	// Timeout ends the program and all that it has started.
	Timeout time.Duration `json:"timeout"`
}

// Kind says what a Record is about.
type Kind string

// The kinds of records, in the order in which they come.
const (
	// Boot: init runs. Data is the kernel's release, Elapsed how long the kernel took
	// to come so far.
	Boot Kind = "boot"
	// Fault: init could not do something that it was asked for. Data says what.
	Fault Kind = "fault"
	// Start: a run begins.
	Start Kind = "start"
	// Output: Data is what a run wrote, a piece of it.
	Output Kind = "output"
	// End: a run has ended with Exit.
	End Kind = "end"
	// Done: everything was run. Nothing follows.
	Done Kind = "done"
)

// Record is one line from the machine.
type Record struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name,omitempty"` // of the run
	Data string `json:"data,omitempty"`
	// Exit is the exit code of a run, or 128 and its signal's number.
	Exit int `json:"exit,omitempty"`
	// TimedOut: the run was ended because its time was over.
	TimedOut bool `json:"timed_out,omitempty"`
	// Elapsed is the time of a run, or of the boot.
	Elapsed time.Duration `json:"elapsed,omitempty"`
}

// Writer writes records. It may be used by several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w, which stays the caller's.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one record as one line.
func (w *Writer) Write(r Record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %s record: %w", r.Kind, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write %s record: %w", r.Kind, err)
	}
	return nil
}

// Output returns a writer that sends what a run writes.
func (w *Writer) Output(run string) io.Writer { return output{w, run} }

type output struct {
	records *Writer
	run     string
}

func (o output) Write(b []byte) (int, error) {
	if err := o.records.Write(Record{Kind: Output, Name: o.run, Data: string(b)}); err != nil {
		return 0, err
	}
	return len(b), nil
}

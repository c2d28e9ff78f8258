// Package record is the directory of a benchmark run:
//
//	results.jsonl   one line for the run, one per trial, one for its end
//	raw/            per trial: every request (*.csv.gz) and fortio's own result (*.fortio.json.gz)
//	summary.json    what follows from them
//	summary.md      the same for people
//	report.html     the same with charts, one file that needs no other
//	bench.txt       the same for benchstat
//
// Everything but results.jsonl and raw can be made again from those two.
package record

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/result"
)

const (
	resultsFile = "results.jsonl"
	rawDir      = "raw"
	latestLink  = "latest"
)

// Dir is a run's directory that is being written. It is for one goroutine, and its
// results file is locked (flock): two that write to one run spoil it.
type Dir struct {
	path    string
	results *os.File
}

// Create makes the directory of a run below root, named by its start, and
// writes its first line. The link root/latest then leads to it. The caller
// closes the Dir.
func Create(root string, head result.Head) (_ *Dir, err error) {
	path := filepath.Join(root, Name(head))
	if err := os.MkdirAll(filepath.Join(path, rawDir), 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(path, resultsFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make results file: %w", err)
	}
	d := &Dir{path: path, results: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.lock(); err != nil {
		return nil, err
	}
	head.Schema, head.Version = result.SchemaRun, result.Version
	if err := d.line(head); err != nil {
		return nil, err
	}
	return d, relink(root, filepath.Base(path))
}

// Resume opens the directory of a run that was interrupted, to go on with it, and
// returns what it has. A line that was cut goes. The caller closes the Dir.
func Resume(path string, at time.Time) (_ *Dir, run result.Run, err error) {
	f, err := os.OpenFile(filepath.Join(path, resultsFile), os.O_RDWR, 0o644)
	if err != nil {
		return nil, run, fmt.Errorf("open results file: %w", err)
	}
	d := &Dir{path: filepath.Clean(path), results: f}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err := d.lock(); err != nil {
		return nil, run, err
	}
	if run, err = Load(path); err != nil {
		return nil, run, err
	}
	if run.End != nil && run.End.Complete {
		return nil, run, fmt.Errorf("run %s is complete: nothing is left to do", path)
	}
	if err := d.trim(); err != nil {
		return nil, run, err
	}
	r := result.Resumed{Schema: result.SchemaResumed, Version: result.Version, At: at, Elapsed: run.Elapsed()}
	if err := d.line(r); err != nil {
		return nil, run, err
	}
	run.Resumed, run.End = append(run.Resumed, r), nil
	return d, run, nil
}

// lock keeps others from writing to the run; it ends with the file, or with the process.
func (d *Dir) lock() error {
	for {
		switch err := unix.Flock(int(d.results.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("run %s is being written by another duomesh bench: wait for it, or end it", d.path)
		case err != nil:
			return fmt.Errorf("lock results file of %s: %w", d.path, err)
		default:
			return nil
		}
	}
}

// trim cuts off what follows the last whole line, and goes there.
func (d *Dir) trim() error {
	b, err := io.ReadAll(d.results)
	if err != nil {
		return fmt.Errorf("read results file: %w", err)
	}
	end := int64(bytes.LastIndexByte(b, '\n') + 1)
	if err := d.results.Truncate(end); err != nil {
		return fmt.Errorf("cut results file: %w", err)
	}
	_, err = d.results.Seek(end, io.SeekStart)
	return err
}

// Name is the name of a run's directory: when it started.
func Name(head result.Head) string { return head.Started.UTC().Format("20060102T150405.000Z") }

// relink points root/latest at a run, without a moment in which it points nowhere.
func relink(root, name string) error {
	fresh := filepath.Join(root, latestLink+".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link latest: %w", err)
	}
	if err := os.Symlink(name, fresh); err != nil {
		return fmt.Errorf("link latest: %w", err)
	}
	if err := os.Rename(fresh, filepath.Join(root, latestLink)); err != nil {
		return fmt.Errorf("link latest: %w", err)
	}
	return nil
}

// Path is the directory.
func (d *Dir) Path() string { return d.path }

// Close closes the results file; what was written stays.
func (d *Dir) Close() error { return d.results.Close() }

func (d *Dir) line(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if _, err := d.results.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// Keep writes the raw files of a trial and sets their names in it. The trial's
// own line is for Trial.
func (d *Dir) Keep(t *result.Trial, r load.Result) error {
	name := fmt.Sprintf("%04d-%s-%s-%s-%d", t.Block, t.Placement, t.Mode, t.Variant, t.Attempt)
	t.Samples = filepath.Join(rawDir, name+".csv.gz")
	t.Fortio = filepath.Join(rawDir, name+".fortio.json.gz")
	if err := os.WriteFile(filepath.Join(d.path, t.Samples), r.Samples, 0o644); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, err := zip.Write(r.Fortio)
	if err := errors.Join(err, zip.Close()); err != nil {
		return fmt.Errorf("compress fortio's result: %w", err)
	}
	if err := os.WriteFile(filepath.Join(d.path, t.Fortio), zipped.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write fortio's result: %w", err)
	}
	return nil
}

// Trial writes the line of a trial.
func (d *Dir) Trial(t result.Trial) error {
	t.Schema, t.Version, t.Note = result.SchemaTrial, result.Version, t.Variant.Traits().StandIn
	return d.line(t)
}

// End writes the last line.
func (d *Dir) End(e result.End) error {
	e.Schema, e.Version = result.SchemaEnd, result.Version
	e.Annotate()
	return d.line(e)
}

// Load reads a run's directory; root/latest is one too.
func Load(path string) (result.Run, error) {
	f, err := os.Open(filepath.Join(path, resultsFile))
	if err != nil {
		return result.Run{}, fmt.Errorf("read run: %w", err)
	}
	defer f.Close()
	run, err := parse(f)
	if err != nil {
		return run, fmt.Errorf("read run %s: %w", path, err)
	}
	run.Samples = func(t result.Trial) ([]load.Sample, error) { return samples(path, t) }
	return run, nil
}

func samples(path string, t result.Trial) ([]load.Sample, error) {
	if !filepath.IsLocal(t.Samples) {
		return nil, fmt.Errorf("%q leads out of the run's directory", t.Samples)
	}
	f, err := os.Open(filepath.Join(path, t.Samples))
	if err != nil {
		return nil, fmt.Errorf("read samples: %w", err)
	}
	defer f.Close()
	all, err := load.ReadSamples(bufio.NewReader(f))
	if err == nil && len(all) != t.Client.Requests {
		err = fmt.Errorf("%s has %d requests, the trial had %d", t.Samples, len(all), t.Client.Requests)
	}
	return all, err
}

func parse(r io.Reader) (result.Run, error) {
	var run result.Run
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // a line without its end was cut by a kill: not a result
		}
		if err != nil {
			return run, err
		}
		if err := parseLine(&run, line, n); err != nil {
			return run, fmt.Errorf("%s line %d: %w", resultsFile, n, err)
		}
	}
	if run.Head.Schema == "" {
		return run, fmt.Errorf("%s is empty", resultsFile)
	}
	return run, nil
}

func parseLine(run *result.Run, line []byte, n int) error {
	var kind struct {
		Schema  string `json:"schema"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(line, &kind); err != nil {
		return err
	}
	if kind.Schema == "" {
		return errors.New("it has no schema: this is no run of duomesh bench")
	}
	if kind.Version != result.Version {
		return fmt.Errorf("%s version %d: this build reads version %d", kind.Schema, kind.Version, result.Version)
	}
	if first := kind.Schema == result.SchemaRun; first != (n == 1) {
		return fmt.Errorf("schema %q: the first line, and no other, must be %s", kind.Schema, result.SchemaRun)
	}
	switch kind.Schema {
	case result.SchemaRun:
		return json.Unmarshal(line, &run.Head)
	case result.SchemaTrial:
		var t result.Trial
		if err := json.Unmarshal(line, &t); err != nil {
			return err
		}
		run.Trials = append(run.Trials, t)
		return nil
	case result.SchemaResumed:
		var r result.Resumed
		if err := json.Unmarshal(line, &r); err != nil {
			return err
		}
		run.Resumed, run.End = append(run.Resumed, r), nil
		return nil
	case result.SchemaEnd:
		run.End = new(result.End)
		return json.Unmarshal(line, run.End)
	}
	return fmt.Errorf("schema %q is not known", kind.Schema)
}

// WriteFile writes one of the run's derived files, whole or not at all.
func WriteFile(path, name string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	whole := filepath.Join(path, name)
	if err := os.WriteFile(whole+".new", b.Bytes(), 0o644); err != nil {
		os.Remove(whole + ".new")
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(whole+".new", whole); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Started is the time of a new run, in the resolution that its files keep.
func Started() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

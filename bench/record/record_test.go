package record

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/result"
)

func written(t *testing.T) (root, path string) {
	t.Helper()
	root = t.TempDir()
	d, err := Create(root, result.Head{Started: Started(), Plan: plan.Default()})
	if err != nil {
		t.Fatal(err)
	}
	var samples bytes.Buffer
	if err := load.WriteSamples(&samples, []load.Sample{{Latency: time.Millisecond, Code: 200}}); err != nil {
		t.Fatal(err)
	}
	trial := result.Trial{
		Block: 1, Attempt: 1, Kept: true, Client: load.Report{Requests: 1},
		Cell: plan.Cell{Placement: plan.Cross, Mode: plan.Fixed, Variant: plan.Direct},
	}
	if err := d.Keep(&trial, load.Result{Samples: samples.Bytes(), Fortio: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{d.Trial(trial), d.End(result.End{Complete: true}), d.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return root, d.Path()
}

func TestRoundTrip(t *testing.T) {
	root, path := written(t)
	for _, p := range []string{path, filepath.Join(root, latestLink)} {
		run, err := Load(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(run.Trials) != 1 || run.End == nil || !run.End.Complete || run.Head.Plan.Load.PayloadBytes != 128 {
			t.Fatalf("%s: %+v", p, run)
		}
		samples, err := run.Samples(run.Trials[0])
		if err != nil || len(samples) != 1 || samples[0].Latency != time.Millisecond {
			t.Errorf("samples %v, %v", samples, err)
		}
	}
}

func TestLatestMovesOn(t *testing.T) {
	root, first := written(t)
	d, err := Create(root, result.Head{Started: Started().Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	link, err := os.Readlink(filepath.Join(root, latestLink))
	if err != nil || link != filepath.Base(d.Path()) || link == filepath.Base(first) {
		t.Errorf("latest leads to %q, %v", link, err)
	}
}

func TestDamagedRunsAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(string) string{
		"line 2":              func(s string) string { return strings.Replace(s, `"block":1`, `"block":x`, 1) },
		"version 9":           func(s string) string { return strings.Replace(s, `"version":1`, `"version":9`, 1) },
		"is empty":            func(string) string { return "" },
		"no run of duomesh":   func(string) string { return "{\"hello\":1}\n" },
		"must be":             func(s string) string { return s[strings.IndexByte(s, '\n')+1:] },
		"leads out of":        func(s string) string { return strings.Replace(s, `"samples":"raw/`, `"samples":"../`, 1) },
		`"x.y" is not known`:  func(s string) string { return strings.Replace(s, result.SchemaTrial, "x.y", 1) },
		"the trial had 2":     func(s string) string { return strings.Replace(s, `"requests":1`, `"requests":2`, 1) },
		"no such file or dir": func(s string) string { return strings.Replace(s, `"samples":"raw/`, `"samples":"raw/no`, 1) },
	} {
		_, path := written(t)
		file := filepath.Join(path, resultsFile)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(spoil(string(b))), 0o644); err != nil {
			t.Fatal(err)
		}
		run, err := Load(path)
		if err == nil && len(run.Trials) > 0 {
			_, err = run.Samples(run.Trials[0])
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), resultsFile) {
		t.Errorf("a directory without a run: %v", err)
	}
}

// TestCutLineIsNoResult: a killed run leaves half a line.
func TestCutLineIsNoResult(t *testing.T) {
	_, path := written(t)
	file := filepath.Join(path, resultsFile)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b[:len(b)-10], 0o644); err != nil {
		t.Fatal(err)
	}
	run, err := Load(path)
	if err != nil || len(run.Trials) != 1 || run.End != nil {
		t.Errorf("trials %d, end %v, %v", len(run.Trials), run.End, err)
	}
}

// TestOneWriter: who goes on with a run that another still writes is refused, and spoils
// nothing; when the other is gone, it may.
func TestOneWriter(t *testing.T) {
	first, err := Create(t.TempDir(), result.Head{Started: Started(), Plan: plan.Default()})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(first.Path(), resultsFile))
	if err != nil {
		t.Fatal(err)
	}
	if d, _, err := Resume(first.Path(), Started()); err == nil || !strings.Contains(err.Error(), "by another duomesh bench") {
		t.Fatalf("beside the first writer: %v, %v", d, err)
	}
	if after, err := os.ReadFile(filepath.Join(first.Path(), resultsFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the run was changed: %q, %v", after, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, _, err := Resume(first.Path(), Started())
	if err != nil {
		t.Fatal(err)
	}
	if d, _, err := Resume(first.Path(), Started()); err == nil {
		t.Errorf("beside one that goes on: %v", d)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

package testsum

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what to test and where the evidence goes.
type Config struct {
	// Go is the go command, a name in PATH or a path.
	Go string
	// Packages are package patterns, as go test takes them.
	Packages []string
	// Run selects tests and specs by a regular expression; empty is all.
	Run string
	// Labels chooses specs by their labels, in ginkgo's form; empty is all.
	Labels string
	// Timeout bounds each package; zero is 20 minutes.
	Timeout time.Duration
	// Turn is a program that calls TakeTurn: the tests of the next package are linked
	// while those of one run. Without it they are linked when it is their turn.
	Turn string
	// Out is the directory for junit.xml, events.jsonl and the reports of the
	// suites. It is made; what an earlier run left there is overwritten.
	Out string
	// Progress is where the reader follows.
	Progress io.Writer
}

const defaultTimeout = 20 * time.Minute

// interruptGrace is how long interrupted tests may take to clean up.
const interruptGrace = 2 * time.Minute

const ginkgoImport = "github.com/onsi/ginkgo/v2"

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath   string
	TestImports  []string
	XTestImports []string
	TestGoFiles  []string
	XTestGoFiles []string
}

func (l listed) isSuite() bool {
	return slices.Contains(l.TestImports, ginkgoImport) || slices.Contains(l.XTestImports, ginkgoImport)
}

func (l listed) hasTests() bool {
	return len(l.TestGoFiles)+len(l.XTestGoFiles) > 0
}

// Run tests the packages one at a time, for they share one kernel, and returns
// every case. An error is one of running, not of a test. When ctx ends, the
// tests are interrupted and what has no result by then has failed.
func Run(ctx context.Context, c Config) ([]Case, error) {
	c.Progress = &lockedWriter{w: c.Progress}
	packages, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	if c.Out, err = filepath.Abs(c.Out); err != nil { // tests run in their own directories
		return nil, fmt.Errorf("place reports: %w", err)
	}
	suiteDir := filepath.Join(c.Out, "suites")
	// A report of an earlier run must not speak for a suite that died in this one.
	if err := os.RemoveAll(suiteDir); err != nil {
		return nil, fmt.Errorf("clear old reports: %w", err)
	}
	if err := os.MkdirAll(suiteDir, 0o755); err != nil {
		return nil, fmt.Errorf("make report directory: %w", err)
	}
	events, err := os.Create(filepath.Join(c.Out, "events.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("make event log: %w", err)
	}
	cases, err := c.testAll(ctx, packages, suiteDir, events)
	return cases, errors.Join(err, events.Close(), os.RemoveAll(c.turnFile()), c.writeJUnit(cases))
}

func (c Config) testAll(ctx context.Context, packages []listed, suiteDir string, events io.Writer) ([]Case, error) {
	var plain, suites []string
	for _, p := range packages {
		switch {
		case p.isSuite():
			suites = append(suites, p.ImportPath)
		case p.hasTests():
			plain = append(plain, p.ImportPath)
		}
	}
	c.compile(ctx, append(slices.Clone(plain), suites...))
	var cases []Case
	if len(plain) > 0 {
		got, err := c.test(ctx, events, nil, c.plainArgs(plain))
		cases = append(cases, got...)
		if err != nil {
			return cases, err
		}
	}
	for _, pkg := range suites {
		report := filepath.Join(suiteDir, strings.ReplaceAll(pkg, "/", "_")+".json")
		suite := map[string]suiteFunc{pkg: func(ran bool) ([]Case, error) {
			if _, err := os.Stat(report); !ran && errors.Is(err, os.ErrNotExist) {
				return nil, nil
			}
			return readGinkgo(report, pkg)
		}}
		got, err := c.test(ctx, events, suite, c.suiteArgs(pkg, report))
		cases = append(cases, got...)
		if err != nil {
			return cases, err
		}
	}
	return cases, nil
}

func (c Config) list(ctx context.Context) ([]listed, error) {
	cmd := exec.CommandContext(ctx, c.Go, append([]string{"list",
		"-json=ImportPath,TestImports,XTestImports,TestGoFiles,XTestGoFiles"}, c.Packages...)...)
	cmd.Stderr = c.Progress
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages %s: %w", strings.Join(c.Packages, " "), err)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		packages = append(packages, l)
	}
}

// compile fills the build cache on all processors, since the tests themselves
// then run one package at a time. What does not build is reported by go test.
func (c Config) compile(ctx context.Context, packages []string) {
	if len(packages) == 0 {
		return
	}
	args := append([]string{"list", "-e", "-test", "-deps", "-export", "-f", "{{if false}}{{end}}"}, packages...)
	_ = exec.CommandContext(ctx, c.Go, args...).Run()
}

func (c Config) timeout() time.Duration { return cmp.Or(c.Timeout, defaultTimeout) }

// plainArgs has the tests of one package run at a time.
func (c Config) plainArgs(packages []string) []string {
	args := []string{"test", "-json", "-count=1"}
	if c.Run != "" {
		args = append(args, "-run="+c.Run)
	}
	if c.Turn == "" || strings.Contains(c.Turn+c.Out, "'") { // which go test could not quote
		return append(append(args, "-p=1", "-timeout="+c.timeout().String()), packages...)
	}
	// go test counts the wait for the package before, which may be as long, and then be
	// killed: what bounds the tests alone is said to their program.
	turn := fmt.Sprintf("-exec='%s' %s '%s'", c.Turn, turnArg, c.turnFile())
	args = append(append(args, "-p=2", turn, "-timeout="+(3*c.timeout()).String()), packages...)
	return append(args, "-args", "-test.timeout="+c.timeout().String())
}

// turnFile is a run's own: what an earlier one left running holds none of it.
func (c Config) turnFile() string { return filepath.Join(c.Out, fmt.Sprintf("turn.%d", os.Getpid())) }

func (c Config) suiteArgs(pkg, report string) []string {
	args := []string{"test", "-json", "-count=1", "-p=1", "-timeout=" + c.timeout().String(), pkg, "-args", "--ginkgo.no-color", "--ginkgo.json-report=" + report}
	if c.Run != "" {
		args = append(args, "--ginkgo.focus="+c.Run)
	}
	if c.Labels != "" {
		args = append(args, "--ginkgo.label-filter="+c.Labels)
	}
	return args
}

// test runs go test in a process group of its own, so that an interrupt reaches
// the test binary as well.
func (c Config) test(ctx context.Context, events io.Writer, suites map[string]suiteFunc, args []string) ([]Case, error) {
	cmd := exec.CommandContext(ctx, c.Go, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = interruptGrace
	cmd.Stderr = c.Progress
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run go test: %w", err)
	}
	s := newStream(c.Progress, suites)
	readErr := s.read(io.TeeReader(out, events))
	waitErr := cmd.Wait()
	s.finish()
	// go test fails when a test does: that is counted. A failure that no case
	// explains is one of running.
	if waitErr != nil && Count(s.cases).Failed == 0 {
		readErr = errors.Join(readErr, fmt.Errorf("run go test: %w", waitErr))
	}
	return s.cases, readErr
}

func (c Config) writeJUnit(cases []Case) error {
	f, err := os.Create(filepath.Join(c.Out, "junit.xml"))
	if err != nil {
		return fmt.Errorf("make junit file: %w", err)
	}
	return errors.Join(WriteJUnit(f, cases), f.Close())
}

// lockedWriter lets go test's standard error and the stream share one writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

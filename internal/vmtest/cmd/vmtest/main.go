// Command vmtest runs this module's programs on the kernels of a matrix, in
// virtual machines: the engine of `make test-kernel`.
//
//	vmtest [-matrix FILE] [-kernels NAME,…] [-runs NAME,…] [-full] [-accel kvm|tcg] [-cache DIR] [-out DIR]
//
// Exit code 0 when everything passed, 1 otherwise, 2 on wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest"
)

type flags struct {
	config        vmtest.Config
	matrix        string
	kernels       string
	runs          string
	accel         string
	compatibility string
	writeBudget   bool
	list          bool
}

func main() {
	f := flags{config: vmtest.Config{Progress: os.Stdout}}
	flag.StringVar(&f.matrix, "matrix", "", "kernel matrix, a YAML `FILE`; default: that of this build")
	flag.StringVar(&f.kernels, "kernels", "", "`NAMES` of kernels, by comma or space; default: those that the matrix runs by default")
	flag.StringVar(&f.runs, "runs", "", "only these runs, by `NAMES` with commas, and not the controls")
	flag.BoolVar(&f.config.Full, "full", false, "run every test, also those that take an emulated machine minutes")
	flag.StringVar(&f.accel, "accel", "auto", "kvm, tcg, or auto: KVM where a machine really boots with it")
	flag.StringVar(&f.config.Cache, "cache", "", "`DIR` that keeps kernels between runs")
	flag.StringVar(&f.config.Out, "out", "out/test-kernel", "`DIR` for consoles and results")
	flag.StringVar(&f.config.Go, "go", "go", "go command")
	flag.StringVar(&f.compatibility, "write-compatibility", "", "also write the table of docs/compatibility.md to `FILE`")
	flag.BoolVar(&f.writeBudget, "write-budget", false, "write the verifier budget from what is measured, and hold nothing against it")
	flag.BoolVar(&f.list, "list", false, "list the kernels and stop")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	ok, err := f.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		os.Exit(2)
	case err != nil || !ok:
		os.Exit(1)
	}
}

type usageError struct{ error }

func (f flags) run(ctx context.Context) (bool, error) {
	if flag.NArg() > 0 {
		return false, usageError{fmt.Errorf("unknown argument %q: names of runs are one argument, with commas and no space between them", flag.Arg(0))}
	}
	matrix, err := vmtest.Load(f.matrix)
	if err != nil {
		return false, usageError{err}
	}
	names := strings.FieldsFunc(f.kernels, func(r rune) bool { return r == ',' || r == ' ' })
	if f.config.Kernels, err = matrix.Choose(names); err != nil {
		return false, usageError{err}
	}
	if f.runs != "" {
		if f.config.Only, err = vmtest.ChooseRuns(strings.Split(f.runs, ",")); err != nil {
			return false, usageError{err}
		}
		if err := f.leaveOutIdle(); err != nil {
			return false, usageError{err}
		}
	}
	if f.list {
		return true, vmtest.List(os.Stdout, matrix)
	}
	if f.config.Accel, err = parseAccel(f.accel); err != nil {
		return false, usageError{err}
	}
	if f.config.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return false, usageError{err}
		}
		f.config.Cache = filepath.Join(dir, "duomesh", "kernels")
	}
	if f.config.Budget, err = vmtest.LoadBudget(); err != nil {
		return false, err
	}
	report, err := vmtest.Run(ctx, f.config)
	if err != nil {
		// What it had found by then is no count of a whole run.
		ended := testsum.Case{Package: "vmtest", Name: "the run ends", Outcome: testsum.Failed, Reason: err.Error()}
		return false, errors.Join(err, testsum.WriteClosing(os.Stdout, append(report.Cases, ended)))
	}
	return f.close(report)
}

// leaveOutIdle leaves out the kernels that make none of the chosen runs.
func (f *flags) leaveOutIdle() error {
	some, none := f.config.Making()
	if len(some) == 0 {
		return fmt.Errorf("-runs %s: none of these is made on %s", f.runs, strings.Join(none.Names(), ", "))
	}
	if len(none) > 0 {
		fmt.Fprintf(os.Stderr, "vmtest: -runs %s: none of these is made on %s: left out\n", f.runs, strings.Join(none.Names(), ", "))
	}
	f.config.Kernels = some
	return nil
}

// close writes what a run found, and says whether it was good.
func (f flags) close(r vmtest.Report) (bool, error) {
	err := vmtest.WriteResults(f.config.Out, r)
	if f.compatibility != "" {
		err = errors.Join(err, vmtest.WriteCompatibility(f.compatibility, r.Kernels))
	}
	if f.writeBudget {
		err = errors.Join(err, vmtest.WriteBudget("internal/vmtest/budget.yaml", r.Kernels))
	}
	err = errors.Join(err, vmtest.Print(os.Stdout, r), testsum.WriteClosing(os.Stdout, r.Cases))
	return err == nil && testsum.Count(r.Cases).OK(), err
}

func parseAccel(s string) (vmtest.Accel, error) {
	switch a := vmtest.Accel(s); {
	case s == "auto":
		return "", nil
	case a == vmtest.KVM || a == vmtest.TCG:
		return a, nil
	}
	return "", fmt.Errorf("-accel %s: must be kvm, tcg or auto", s)
}

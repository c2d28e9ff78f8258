// Command testsum runs the tests of this module and closes with their count: the
// engine of `make test`.
//
//	testsum [-go GO] [-out DIR] [-run REGEXP] [-labels FILTER] [-timeout D] PACKAGE…
//	testsum -turn FILE PROGRAM [ARGUMENT…]
//
// The second waits until nobody holds FILE and becomes PROGRAM: go test is given it by the
// first.
//
// Exit code 0 when tests ran and none failed, 1 otherwise, 2 on wrong usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/duomesh/duomesh/internal/testsum"
)

func main() {
	if err := testsum.TakeTurn(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
	c := testsum.Config{Progress: os.Stdout}
	c.Turn, _ = os.Executable() // without it tests are linked one after the other
	flag.StringVar(&c.Go, "go", "go", "go command")
	flag.StringVar(&c.Out, "out", "out/test", "directory for junit.xml and the other reports")
	flag.StringVar(&c.Run, "run", "", "run the tests and specs that match this regular expression")
	flag.StringVar(&c.Labels, "labels", "", "run the specs with these labels, in ginkgo's form")
	flag.DurationVar(&c.Timeout, "timeout", 0, "bound for each package; 0 is 20 minutes")
	flag.Parse()
	c.Packages = flag.Args()
	if len(c.Packages) == 0 {
		fmt.Fprintln(os.Stderr, "testsum: name the packages to test")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends testsum itself
	if !run(ctx, c) {
		os.Exit(1)
	}
}

func run(ctx context.Context, c testsum.Config) bool {
	cases, err := testsum.Run(ctx, c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if writeErr := testsum.WriteClosing(os.Stdout, cases); writeErr != nil {
		fmt.Fprintln(os.Stderr, "testsum:", writeErr)
		return false
	}
	return err == nil && testsum.Count(cases).OK()
}

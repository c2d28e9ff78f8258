// Command released takes a program out of a released container image, where a
// registry can be reached, and writes beside it from which image it is
// (FILE.image: NAME@DIGEST). scripts/programs-lib.sh calls it.
//
// Exit codes: 0, 1 it could not be done, 2 wrong usage, 4 no registry was reached.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

const (
	done = iota
	failed
	usage
	_
	unreachable
)

func run(ctx context.Context, arguments []string, say io.Writer) int {
	flags := flag.NewFlagSet("released", flag.ContinueOnError)
	flags.SetOutput(say)
	var p images.Program
	var r images.Registry
	flags.StringVar(&p.Image, "image", "", "`NAME` with a tag or a digest")
	flags.StringVar(&p.Path, "path", "", "`FILE` in the image")
	flags.StringVar(&p.Architecture, "arch", runtime.GOARCH, "what it must be made for, in Go's `WORDS`")
	flags.BoolVar(&p.Static, "static", false, "refuse a program that needs a dynamic linker")
	flags.StringVar(&r.Mirror, "mirror", "", "`HOST[:PORT][/PREFIX]` to ask in place of the image's registry")
	flags.DurationVar(&r.Wait, "wait", 10*time.Second, "how long to wait for the first answer")
	out := flags.String("o", "", "`FILE` to write")
	if err := flags.Parse(arguments); err != nil {
		return usage
	}
	if p.Image == "" || p.Path == "" || *out == "" || flags.NArg() > 0 {
		fmt.Fprintln(say, "released: want -image NAME -path FILE -o FILE, and no arguments")
		return usage
	}
	r.Log = func(line string) { fmt.Fprintf(say, "duomesh: %s: %s\n", p.Image, line) }
	err := put(ctx, r, p, *out)
	switch {
	case errors.Is(err, images.ErrUnreachable):
		fmt.Fprintln(say, "duomesh:", err)
		return unreachable
	case err != nil:
		fmt.Fprintln(say, "duomesh:", err)
		return failed
	}
	return done
}

// put writes the program to a file, whole or not at all; what image it is of is
// there first.
func put(ctx context.Context, r images.Registry, p images.Program, out string) error {
	dir := filepath.Dir(out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	scratch, err := os.CreateTemp(dir, filepath.Base(out)+".*.part")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name()) // it is gone when all went well
	taken, err := r.Take(ctx, p, scratch)
	if err := errors.Join(err, scratch.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(out+".image", []byte(taken+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(scratch.Name(), out)
}

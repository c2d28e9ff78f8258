// Command duomesh-agent is the node agent: it brings what a source declares to
// the kernel of its node, and takes enrolments of pods.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/dataplane"
)

// Exit codes: as those of the command duomesh.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(30) // the state is large, and lives long
	}
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, env func(string) string, out, errs io.Writer) int {
	cmd := newCommand(env, errs)
	cmd.SetArgs(args)
	cmd.SetOut(out)
	cmd.SetErr(errs)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) && len(verifier.Log) > 0 {
		fmt.Fprintf(errs, "%+v\n", verifier)
	}
	fmt.Fprintln(errs, "duomesh-agent:", advised(err))
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFail
}

// advised adds the way out where what is pinned cannot be taken over by anybody.
func advised(err error) error {
	var pins dataplane.PinError
	if !errors.As(err, &pins) || pins.Busy {
		return err
	}
	return fmt.Errorf("%w (duomesh-agent --remove, with the same --bpffs, ends the redirection and takes the pins away, of whatever layout)", err)
}

// usageError is bad input: nothing was done.
type usageError struct{ error }

// Unwrap returns the cause.
func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

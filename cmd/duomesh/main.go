// Command duomesh is the tool for people and CI: simulated clusters, the
// redirection gate, the judge and the benchmark.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/internal/report"
)

func main() { os.Exit(run()) }

func run() int {
	if code, child := runChild(); child {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, out := newRootCmd(), &output{to: os.Stdout}
	root.SetOut(out)
	return exitCode(out.after(root.ExecuteContext(ctx)))
}

// exitCode prints an error once, in full where the verifier has more to say,
// and returns the exit code: 2 for bad input and for what this machine cannot do,
// 1 otherwise, or the code that a gate asked for.
func exitCode(err error) int {
	if err == nil {
		return report.ExitPass
	}
	var gate gateError
	if errors.As(err, &gate) {
		return gate.code
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		fmt.Fprintf(os.Stderr, "%+v\n", verifier)
	}
	fmt.Fprintln(os.Stderr, "duomesh:", err)
	var coded codeError
	if errors.As(err, &coded) {
		return coded.code
	}
	var usage usageError
	if errors.As(err, &usage) {
		return report.ExitUsage
	}
	return report.ExitFail
}

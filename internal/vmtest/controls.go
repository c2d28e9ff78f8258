package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// control is a machine that must not pass.
type control struct {
	name string
	// does is what init is told to do to its machine.
	does string
	// timeouts bound the machine, the next where it had not come to its control
	// within the one before: on a busy host an emulated machine boots for minutes.
	timeouts []time.Duration
	// says is what the reason that must be given begins with.
	says string
}

const (
	neverEnded = "it had not ended after "
	endedEarly = "it ended without having said that it was done"
)

// controls show that a machine's death is seen, and how.
var controls = []control{
	{"a kernel panic is a failure", guest.Panic, []time.Duration{5 * time.Minute}, "the kernel panicked"},
	{"a machine that hangs is a failure", guest.Hang, []time.Duration{20 * time.Second, time.Minute, 5 * time.Minute}, neverEnded},
	{"a machine that ends early is a failure", guest.PowerOff, []time.Duration{5 * time.Minute}, endedEarly},
}

// controls runs them on one kernel. Where that cannot be had, its own run says so.
func (r *runner) controls(ctx context.Context, k Kernel) ([]testsum.Case, error) {
	tree, err := r.trees[k.Name]()
	if err != nil {
		return nil, ctx.Err()
	}
	if err := r.accelerate(ctx, tree); err != nil {
		return nil, err
	}
	var cases []testsum.Case
	for _, c := range controls {
		start := time.Now()
		problem, err := r.dies(ctx, k, tree, c)
		if err != nil {
			return cases, fmt.Errorf("control, %s: %w", c.name, err)
		}
		one := testsum.Case{Package: k.suite("controls"), Name: c.name, Elapsed: time.Since(start)}
		if problem != "" {
			one.Outcome, one.Reason = testsum.Failed, problem
		}
		cases = append(cases, one)
	}
	return cases, nil
}

// dies returns what is wrong with how a machine's death was told, or "".
func (r *runner) dies(ctx context.Context, k Kernel, tree Tree, c control) (string, error) {
	dir := filepath.Join(r.Out, k.Name, "control-"+c.does)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	initramfs := filepath.Join(dir, "initramfs")
	runs := []guest.Run{{Name: c.does, Argv: []string{"/init", c.does}, Timeout: time.Hour}}
	if err := (image{init: r.init, runs: runs}).write(initramfs); err != nil {
		return "", err
	}
	defer os.Remove(initramfs)
	var death *DeathError
	var err error
	for _, timeout := range c.timeouts {
		_, err = Machine{
			Tree: tree, Initramfs: initramfs, Accel: r.Accel, MemoryMB: 512, Timeout: timeout, Dir: dir, Args: r.args(),
		}.Run(ctx)
		if !errors.As(err, &death) || death.Reason != neverEnded+timeout.String() {
			break // not one that was late
		}
	}
	switch {
	case err == nil:
		return "it passed", nil
	case !errors.As(err, &death):
		return "", err
	case !strings.HasPrefix(death.Reason, c.says) || !strings.Contains(death.Reason, ", while it ran "+c.does):
		return fmt.Sprintf("it failed with another reason than %q, while it ran %s: %s", c.says, c.does, death), nil
	case death.Tail == "":
		return "nothing was kept of its console", nil
	}
	r.control(k, []string{death.Reason + "; its console ends:\n" + lastLines(death.Tail, 3)})
	return "", nil
}

package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

const exitNotStarted = 127

// runProgram runs a program to its end and reports it. Only a failure of
// reporting is an error.
func runProgram(r guest.Run, records *guest.Writer) error {
	if err := records.Write(guest.Record{Kind: guest.Start, Name: r.Name}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	out := records.Output(r.Name)
	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Dir = filepath.Dir(r.Argv[0])
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append([]string{"PATH=/bin:/sbin:/usr/sbin", "HOME=/tmp"}, r.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	err := cmd.Run()
	end := guest.Record{
		Kind: guest.End, Name: r.Name, Exit: exitCode(cmd, err),
		TimedOut: errors.Is(ctx.Err(), context.DeadlineExceeded), Elapsed: time.Since(start),
	}
	if err != nil && cmd.ProcessState == nil {
		end.Data = err.Error()
	}
	return records.Write(end)
}

func exitCode(cmd *exec.Cmd, err error) int {
	if cmd.ProcessState == nil {
		return exitNotStarted
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 || err == nil {
		return code
	}
	return exitNotStarted // ended well, and its output could not be read whole
}

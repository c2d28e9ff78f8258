// Command vminit is process 1 of a test machine: it mounts the file systems,
// loads the modules, runs the programs of the job, sends what they write to the
// host, and ends the machine.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// Exit codes of the machine. A program that failed is no failure of the machine.
const (
	exitDone  = 0
	exitFault = 1
)

func main() {
	if len(os.Args) == 2 && os.Getppid() == 1 {
		fmt.Fprintln(os.Stderr, "vminit:", control(os.Args[1]))
		os.Exit(exitFault)
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vminit: to be run as process 1 of a test machine")
		os.Exit(exitFault)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vminit:", err) // the console
		exit(exitFault)
	}
	exit(exitDone)
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	port, err := openPort(guest.ResultPort)
	if err != nil {
		return err
	}
	records := guest.NewWriter(port)
	if err := work(records); err != nil {
		said := records.Write(guest.Record{Kind: guest.Fault, Data: err.Error()})
		// The host hears of it by the console alone where it is not drained.
		return errors.Join(err, said, drain(port))
	}
	return drain(port)
}

// drain waits until the last byte has left the port.
func drain(port *os.File) error {
	for {
		err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func work(records *guest.Writer) error {
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return fmt.Errorf("read how long the kernel runs: %w", err)
	}
	booted := guest.Record{Kind: guest.Boot, Data: release, Elapsed: time.Duration(up.Nano())}
	if err := records.Write(booted); err != nil {
		return err
	}
	job, err := readJob()
	if err != nil {
		return err
	}
	if err := loadModules(job.Modules); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := compilePrograms(); err != nil {
		return err
	}
	for _, r := range job.Runs {
		if err := runProgram(r, records); err != nil {
			return err
		}
	}
	return records.Write(guest.Record{Kind: guest.Done})
}

func readJob() (guest.Job, error) {
	var job guest.Job
	data, err := os.ReadFile(guest.JobPath)
	if err != nil {
		return job, fmt.Errorf("read the job: %w", err)
	}
	if err := json.Unmarshal(data, &job); err != nil {
		return job, fmt.Errorf("read the job: %w", err)
	}
	return job, nil
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// openPort opens a serial port that changes no byte.
func openPort(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the result port: %w", err)
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
	}
	if err != nil {
		return nil, fmt.Errorf("make the result port raw: %w", err)
	}
	return f, nil
}

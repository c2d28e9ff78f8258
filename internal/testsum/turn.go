package testsum

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// turnArg is the first argument of a program that is to take its turn.
const turnArg = "-turn"

// TakeTurn waits, where args are "-turn FILE PROGRAM ARGUMENT…", until no other process
// holds FILE, and becomes PROGRAM, which holds it until it ends. It returns only when
// that failed, or with nil when args say something else.
//
// The lock is of POSIX (fcntl(2)): a process keeps it over execve(2), and what it leaves
// running has none of it. A process that closes FILE, by whichever descriptor, lets it go.
func TakeTurn(args []string) error {
	if len(args) == 0 || args[0] != turnArg {
		return nil
	}
	if len(args) < 3 {
		return errors.New("take a turn: name a file and a program")
	}
	file, program := args[1], args[2:]
	fd, err := unix.Open(file, unix.O_CREAT|unix.O_WRONLY, 0o600) // stays open over execve
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	for {
		err := unix.FcntlFlock(uintptr(fd), unix.F_SETLKW, &whole)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %s: %w", file, err)
		}
	}
	return fmt.Errorf("run %s: %w", program[0], syscall.Exec(program[0], program, os.Environ()))
}

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/l4"
)

// pinned is the directory of Host.BPFFS that holds all that engines pin.
func pinned(bpffs string) string { return filepath.Join(bpffs, "duomesh") }

// Pins is the directory in which an engine of this build pins its maps and
// links below a BPF file system. It exists only once an engine has run.
func Pins(bpffs string) string { return l4.Pins(bpffs) }

// Pinned reports whether an engine has left something below a BPF file system.
func Pinned(bpffs string) bool {
	if bpffs == "" {
		return false
	}
	_, err := os.Lstat(pinned(bpffs))
	return err == nil
}

// RemovePins takes away all that engines have pinned below a BPF file system,
// of whatever layout, and so ends the redirection. It is for state that Open
// refuses; Node.Remove is for an open Node. Nothing pinned is no error. It
// fails while an engine uses the pins.
func RemovePins(bpffs string) error {
	root := pinned(bpffs)
	lock, err := os.Open(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("remove pins: an engine uses %s: end it first", root)
	}
	if err != nil {
		return fmt.Errorf("remove pins: lock %s: %w", root, err)
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
